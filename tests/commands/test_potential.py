"""``neupol potential`` as a user runs it, on predicted densities and on given ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Volume, by_counts, by_spacing
from tests.surfaces import fields
from tests.warm import neupol

WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "water.xyz").write_text(WATER)
    return tmp_path


def records(folder: Path, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    done = neupol("potential", *arguments, "--json", cwd=folder, **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def record(folder: Path, *arguments: str) -> dict[str, Any]:
    (found,) = records(folder, *arguments)
    return found


def at_points(found: dict[str, Any]) -> np.ndarray:
    return np.array([point["Hartree_per_e"] for point in found["points"]])


def free_density(structure: Atoms, is_valence: bool = True) -> Volume:
    periodic = structure.pbc.any()
    grid = by_counts(structure, (20, 20, 20), 0) if periodic else by_spacing(structure, 0.25, 3.6)
    free = [free_atom(int(number), is_valence) for number in structure.numbers]
    return Volume(structure, grid, pieces.promolecule(structure, grid, free))


def water() -> Atoms:
    return Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])


def test_water_in_every_way(folder: Path) -> None:
    (folder / "points.csv").write_text("x,y,z\n0,0,30\n")
    found = record(
        folder, "water.xyz", "--at", "0,0,2.5", "--at", "-1,0.5,-2.5", "--points", "points.csv"
    )
    assert found["sign"] == "positive for a positive test charge"
    assert found["zero"] == "zero far away"
    assert found["nuclei"] == "Gaussian cores of GTH-PBE and valence electrons"
    assert found["doubts"] == [] and "surface" not in found
    oxygen, hydrogen, far = at_points(found)
    assert oxygen < -0.02 < 0.02 < hydrogen
    moments = found["multipoles"]
    assert moments["charge_e"] == pytest.approx(0, rel=0, abs=1e-6)
    np.testing.assert_allclose(moments["dipole_D"], [0, 0, -2.04], rtol=0, atol=0.05)
    # What a dipole and a quadrupole at that origin have at the far point, in atomic units.
    apart = (30 - moments["origin_Angstrom"][2]) / BOHR
    dipole = moments["dipole_D"][2] * 0.393430
    quadrupole = moments["quadrupole_D_Angstrom"]["zz"] * 0.393430 / BOHR
    expected = dipole / apart**2 + quadrupole / apart**3
    assert far == pytest.approx(expected, rel=0, abs=2e-6)
    # As `density` has it, whose origin does not matter to a neutral molecule.
    done = neupol("density", "water.xyz", "-o", "rho.npz", "--json", "--normalize", cwd=folder)
    dipole_there = json.loads(done.stdout)["dipole_D"]
    np.testing.assert_allclose(moments["dipole_D"], dipole_there, rtol=0, atol=0.02)


def test_the_cube_has_the_values_unit_and_sign(folder: Path) -> None:
    found = record(folder, "water.xyz", "-o", "v.cube", "--at", "0,0,2.5")
    lines = (folder / "v.cube").read_text().splitlines()
    assert "potential water.xyz" in lines[0] and len(lines[0]) <= 80
    assert lines[1].startswith("values in Hartree/e (of a positive test charge), model ")
    assert len(lines[1]) <= 80
    values = np.array(" ".join(lines[9:]).split(), dtype=float)
    counts = [int(line.split()[0]) for line in lines[3:6]]
    assert len(values) == np.prod(counts)
    assert values.min() == pytest.approx(found["lowest_Hartree_per_e"], rel=0, abs=1e-7)
    assert values.max() == pytest.approx(found["highest_Hartree_per_e"], rel=0, abs=1e-5)
    # At a point of the grid the cube and --at agree.
    origin = [float(word) * BOHR for word in lines[2].split()[1:4]]
    steps = [float(lines[3 + k].split()[1 + k]) * BOHR for k in range(3)]
    index = np.array(counts) // 2 + [0, 0, 8]
    place = ",".join(f"{o + s * i:.10f}" for o, s, i in zip(origin, steps, index, strict=True))
    again = record(folder, "water.xyz", "--at", place)
    expected = values.reshape(counts)[tuple(index)]
    assert at_points(again)[0] == pytest.approx(expected, rel=0, abs=1e-6)
    refused = neupol("charges", "v.cube", cwd=folder)
    assert refused.returncode == 65 and "values are in Hartree/e" in refused.stderr


def test_a_density_that_is_given_has_the_potential_of_the_structure(folder: Path) -> None:
    points = ("--at", "0,0,2.5", "--at", "0,3,0", "--at", "0,0,9")
    direct = at_points(record(folder, "water.xyz", *points))
    assert np.abs(direct).min() > 1e-4
    for name in ("rho.cube", "rho.xsf", "rho.npz", "rho.h5"):
        assert neupol("density", "water.xyz", "-o", name, cwd=folder).returncode == 0
        given = record(folder, name, *points)
        np.testing.assert_allclose(at_points(given), direct, rtol=0, atol=1e-5)


def test_neutral_free_atoms_have_no_potential_and_no_moments(folder: Path) -> None:
    for is_valence, nuclei in ((True, "Gaussian cores"), (False, "point nuclei")):
        volumetric.write(folder / "rho.npz", free_density(water(), is_valence), "t")
        found = record(folder, "rho.npz", "--at", "0,0,4.5")
        assert found["nuclei"].startswith(nuclei)
        np.testing.assert_allclose(at_points(found), 0, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["multipoles"]["dipole_D"], 0, rtol=0, atol=1e-4)


def test_an_ion_adds_up_to_its_charge_unless_it_is_left_as_it_is(folder: Path) -> None:
    hydroxide = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    volume = free_density(hydroxide)
    volume.values[...] *= 8 / 7 * 0.98
    volumetric.write(folder / "oh.npz", volume, "t")
    arguments = ("oh.npz", "--charge", "-1", "--at", "0,0,100")
    found = record(folder, *arguments)
    assert found["factor"] == pytest.approx(1 / 0.98, rel=0, abs=1e-3)
    assert found["multipoles"]["charge_e"] == pytest.approx(-1, rel=0, abs=1e-9)
    assert at_points(found)[0] == pytest.approx(-BOHR / 100, rel=0, abs=5e-5)
    left = record(folder, *arguments, "--no-normalize")
    assert "factor" not in left
    assert left["multipoles"]["charge_e"] == pytest.approx(-0.84, rel=0, abs=0.01)


def test_a_grid_that_cuts_the_density_off_is_not_scaled(folder: Path) -> None:
    done = neupol("potential", "water.xyz", "--margin", "1", "--json", cwd=folder)
    assert done.returncode == 0 and "doubtful: the grid cuts the density off" in done.stderr
    assert "factor" not in json.loads(done.stdout)
    scaled = neupol("potential", "water.xyz", "--margin", "1", "--normalize", cwd=folder)
    assert scaled.returncode == 65 and "--normalize: the grid cuts" in scaled.stderr
    strict = neupol("potential", "water.xyz", "--margin", "1", "--strict", cwd=folder)
    assert strict.returncode == 65 and strict.stdout == ""


def test_a_crystal_has_no_multipoles_and_mean_zero(folder: Path) -> None:
    half = 2.82
    crystal = Atoms("NaCl", [[0, 0, 0], [half, 0, 0]], cell=half * (1 - np.eye(3)), pbc=True)
    volumetric.write(folder / "CHGCAR", free_density(crystal), "t")
    found = record(
        folder, "CHGCAR", "--at", "0.5,0.5,0.5", "--at", f"0.5,{half + 0.5},{half + 0.5}"
    )
    assert found["zero"] == "its mean is zero" and "multipoles" not in found
    here, moved = at_points(found)
    assert moved == pytest.approx(here, rel=0, abs=1e-6) and here > 0.03


def test_the_surface_of_water(folder: Path) -> None:
    pytest.importorskip("skimage")
    found = record(folder, "water.xyz", "--surface")["surface"]
    assert found["unit"] == "kcal/mol/e" and found["level_e_per_bohr3"] == 0.001
    assert found["lowest"]["nearest_atom"] == 0 and found["highest"]["nearest_atom"] in (1, 2)
    assert found["lowest"]["value"] == pytest.approx(-37, rel=0, abs=1)
    assert found["highest"]["value"] == pytest.approx(42.4, rel=0, abs=0.5)
    assert found["area_Angstrom2"] == pytest.approx(45.1, rel=0, abs=0.5)
    assert found["balance"] == pytest.approx(0.246, rel=0, abs=0.003)
    assert found["variance"] == found["variance_positive"] + found["variance_negative"]


def test_tables(folder: Path) -> None:
    pytest.importorskip("skimage")
    done = neupol("potential", "water.xyz", "--at", "0,0,2.5", "--surface", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Hartree/e on the grid; positive for a positive test charge" in done.stdout
    assert "about the centre of nuclear charge" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    (point,) = [row for row in rows if row[:3] == ["0.0000", "0.0000", "2.5000"]]
    assert float(point[4]) == pytest.approx(float(point[3]) * 627.509, rel=0, abs=1e-3)
    (lowest,) = [row for row in rows if row[:1] == ["lowest"]]
    assert lowest[2] == "kcal/mol/e" and lowest[-2:] == ["O", "1"]


def test_several_structures_and_their_files(folder: Path) -> None:
    found = records(folder, "-", "--spacing", "0.3", "-o", "v{}.cube", input=WATER + WATER)
    assert [item["output"] for item in found] == ["v0.cube", "v1.cube"]
    first, second = ((folder / f"v{k}.cube").read_text().partition("\n") for k in (0, 1))
    assert first[2] == second[2] and len(first[2]) > 10_000
    (folder / "two.xyz").write_text(WATER + WATER)
    one = neupol("potential", "two.xyz", "--spacing", "0.3", "-o", "v.cube", cwd=folder)
    assert one.returncode == 2 and "the name needs {}" in one.stderr
    assert not (folder / "v.cube").exists()


def test_a_page_is_painted_with_the_potential(folder: Path) -> None:
    pytest.importorskip("k3d")
    found = record(folder, "water.xyz", "--surface", "--plot", "v.html")
    assert found["plot"] == "v.html"
    density, potential = fields.described((folder / "v.html").read_text())["layers"]
    assert density["title"] == "electron density" and potential["unit"] == "kcal/mol/e"
    assert density["level"] == pytest.approx(0.001 / BOHR**3, rel=1e-6)
    extremes = [abs(found["surface"][name]["value"]) for name in ("lowest", "highest")]
    assert max(extremes) < float(density["paint"]["reach"]) < 2 * max(extremes)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["water.xyz", "-o", "v.h5"], 2, "v.h5: holds no potential; the name must end in .cube"),
        (["water.xyz", "-o", "CHGCAR"], 2, "CHGCAR: holds no potential; the name must end in"),
        (["water.xyz", "-o", "v.png"], 2, "the name must end in .cube, .xsf or .npz\n"),
        (["water.xyz", "-o", "no/v.cube"], 2, "the folder"),
        (["water.xyz", "--plot", "v.png"], 2, "a page's name ends in .html"),
        (["water.xyz", "--at", "1,2"], 2, "--at takes X,Y,Z"),
        (["water.xyz", "--points", "p.txt"], 2, "the ending is one of .xyz, .csv"),
        (["water.xyz", "--points", "p.csv"], 65, "p.csv: No such file"),
        (["water.xyz", "-m", "qm9"], 2, "qm9"),
        (["rho.npz", "--spacing", "0.1"], 2, "this density has its grid"),
        (["rho.npz", "--charge", "3"], 65, "its free atoms with their charge 5 or 7"),
        (["gold.xyz"], 65, "Au"),
        (["wire.npz"], 65, "wire.npz: a wire (periodic along one direction) has no potential"),
        (["water.xyz", "--memory", "64MB", "--spacing", "0.05"], 65, "--memory"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], code: int, reason: str) -> None:
    (folder / "gold.xyz").write_text("1\n\nAu 0 0 0\n")
    volumetric.write(folder / "rho.npz", free_density(water()), "t")
    wire = Atoms("O", [[1.0, 4.0, 4.0]], cell=[5.0, 8.0, 8.0], pbc=[True, False, False])
    volumetric.write(folder / "wire.npz", free_density(wire), "t")
    done = neupol("potential", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_one_bad_structure_of_many_is_left_out(folder: Path) -> None:
    (folder / "two.xyz").write_text("1\n\nAu 0 0 0\n" + WATER)
    done = neupol("potential", "two.xyz", "--on-error", "skip", "--json", cwd=folder)
    assert done.returncode == 0 and "skipped" in done.stderr
    assert [json.loads(line)["structure"] for line in done.stdout.splitlines()] == ["two.xyz#1"]
    (folder / "gold.xyz").write_text("1\n\nAu 0 0 0\n")
    done = neupol("potential", "gold.xyz", "--on-error", "skip", cwd=folder)
    assert done.returncode == 65 and "no structure was left" in done.stderr
