"""``neupol charges`` as a user runs it, on predicted densities and on given ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms

from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume, by_counts, by_spacing
from tests.surfaces import fields
from tests.warm import neupol

WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
SCHEMES = "hirshfeld,voronoi,mbis"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "water.xyz").write_text(WATER)
    return tmp_path


def records(folder: Path, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    done = neupol("charges", *arguments, "--json", cwd=folder, **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def record(folder: Path, *arguments: str) -> dict[str, Any]:
    (found,) = records(folder, *arguments)
    return found


def charges(found: dict[str, Any], scheme: str = "hirshfeld") -> np.ndarray:
    return np.array(found["schemes"][scheme]["charges_e"])


def free_density(
    structure: Atoms, is_valence: bool = True, spin: float | None = None, spacing: float = 0.25
) -> Volume:
    """The sum of free atoms, which has no charges; a share of it may be spin."""
    periodic = structure.pbc.any()
    counts = (16, 16, 16)
    grid = by_counts(structure, counts, 0.0) if periodic else by_spacing(structure, spacing, 3.6)
    free = [free_atom(int(number), is_valence) for number in structure.numbers]
    values = pieces.promolecule(structure, grid, free)
    return Volume(structure, grid, values, None if spin is None else spin * values)


def water() -> Atoms:
    return Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])


def test_water_by_every_scheme(folder: Path) -> None:
    found = record(folder, "water.xyz", "--scheme", SCHEMES)
    assert found["free_atoms"] == "PBE/GTH valence densities" and found["doubts"] == []
    assert found["electrons"] == pytest.approx(8, rel=0, abs=0.01)
    for scheme, oxygen in {"hirshfeld": -0.30, "voronoi": -0.31, "mbis": -0.895}.items():
        answer = found["schemes"][scheme]
        values = charges(found, scheme)
        assert values.sum() == pytest.approx(0, rel=0, abs=1e-4)
        np.testing.assert_allclose(values, [oxygen, -oxygen / 2, -oxygen / 2], rtol=0, atol=0.01)
        assert np.shape(answer["dipoles_eAngstrom"]) == (3, 3)
        assert ("volume_ratios" in answer) == (scheme != "voronoi")
        assert "spins_e" not in answer
    assert [shell["atom"] for shell in found["schemes"]["mbis"]["shells"]] == [0, 1, 2]
    # Charges and atomic dipoles together are the molecule's dipole, as `density` has it.
    done = neupol("density", "water.xyz", "-o", "rho.npz", "--json", cwd=folder)
    dipole = np.array(json.loads(done.stdout)["dipole_D"]) * 0.2081943
    for scheme in SCHEMES.split(","):
        local = np.array(found["schemes"][scheme]["dipoles_eAngstrom"]).sum(axis=0)
        total = charges(found, scheme) @ water().positions + local
        np.testing.assert_allclose(total, dipole, rtol=0, atol=0.02)


def test_a_density_that_is_given_has_the_charges_of_the_structure(folder: Path) -> None:
    direct = record(folder, "water.xyz", "--scheme", SCHEMES)
    for name in ("rho.cube", "rho.npz", "rho.h5"):
        assert neupol("density", "water.xyz", "-o", name, cwd=folder).returncode == 0
        given = record(folder, name, "--scheme", SCHEMES)
        for scheme in SCHEMES.split(","):
            np.testing.assert_allclose(
                charges(given, scheme), charges(direct, scheme), rtol=0, atol=2e-4
            )
    by_model = record(folder, "rho.cube", "-m", "density", "--grid-from", "rho.cube")
    np.testing.assert_allclose(charges(by_model), charges(direct), rtol=0, atol=2e-4)


def test_tables_and_columns(folder: Path) -> None:
    done = neupol(
        "charges", "water.xyz", "--scheme", "hirshfeld,mbis", "-o", "q.extxyz", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "neupol: free atoms: PBE/GTH valence densities\n"
    assert "of 8" in done.stdout
    assert "Hirshfeld, sum" in done.stdout and "MBIS, sum" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[1:2] == ["O"]]
    assert len(rows) == 2 and float(rows[0][2]) == pytest.approx(-0.30, rel=0, abs=0.01)
    atoms = ase.io.read(folder / "q.extxyz")
    assert atoms.arrays["hirshfeld_charge_e"][0] == pytest.approx(-0.30, rel=0, abs=0.01)
    assert atoms.arrays["mbis_dipole_e_Angstrom"].shape == (3, 3)
    assert "mbis_volume_ratio_1" in atoms.arrays


def test_a_page_has_the_charges_that_are_printed(folder: Path) -> None:
    pytest.importorskip("k3d")
    schemes = ("--scheme", "hirshfeld,mbis")
    found = records(folder, "-", *schemes, "--plot", "q{}.html", input=WATER + WATER)
    assert [item["plot"] for item in found] == ["q0.html", "q1.html"]
    shown = fields.described((folder / "q1.html").read_text())
    by_scheme = [charges(found[1], name) for name in ("hirshfeld", "mbis")]
    assert [atom["text"] for atom in shown["atoms"]] == [
        f"{symbol} {k + 1}, Hirshfeld {by_scheme[0][k]:+.3f} e, MBIS {by_scheme[1][k]:+.3f} e"
        for k, symbol in enumerate("OHH")
    ]
    one = neupol("charges", "-", "--plot", "q.html", input=WATER + WATER, cwd=folder)
    assert one.returncode == 2 and "the name needs {}" in one.stderr and one.stdout == ""
    volumetric.h5.write(folder / "rho.h5", [free_density(water())] * 2, "t")
    given = neupol("charges", "rho.h5", "--plot", "g{}.html", cwd=folder)
    assert given.returncode == 0 and (folder / "g1.html").stat().st_size > 1_000_000


def test_several_structures_from_a_pipe(folder: Path) -> None:
    found = records(folder, "-", "--spacing", "0.3", input=WATER + WATER)
    assert len(found) == 2
    np.testing.assert_array_equal(charges(found[0]), charges(found[1]))


def test_a_dataset_of_densities(folder: Path) -> None:
    pair = Atoms("CO", [[0, 0, 0], [0, 0, 1.13]])
    volumetric.h5.write(folder / "rho.h5", [free_density(water()), free_density(pair)], "t")
    found = records(folder, "rho.h5")
    assert [item["structure"] for item in found] == ["rho.h5[0]", "rho.h5[1]"]
    for item in found:
        np.testing.assert_allclose(charges(item), 0, rtol=0, atol=1e-5)


def test_all_electrons_are_told_from_valence_electrons(folder: Path) -> None:
    volumetric.write(folder / "all.cube", free_density(water(), is_valence=False), "t")
    found = record(folder, "all.cube", "--scheme", "hirshfeld")
    assert found["free_atoms"] == "PBE densities of all electrons"
    assert found["electrons_expected"] == 10
    np.testing.assert_allclose(charges(found), 0, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["schemes"]["hirshfeld"]["volume_ratios"], 1, rtol=0, atol=1e-3)


def test_spins_where_the_density_has_spin(folder: Path) -> None:
    volumetric.write(folder / "rho.npz", free_density(water(), spin=0.25), "t")
    found = record(folder, "rho.npz", "--scheme", "hirshfeld,voronoi")
    for answer in found["schemes"].values():
        assert np.sum(answer["spins_e"]) == pytest.approx(2, rel=0, abs=0.02)
    spins = found["schemes"]["hirshfeld"]["spins_e"]
    np.testing.assert_allclose(spins, [1.5, 0.25, 0.25], rtol=0, atol=0.02)


def test_a_crystal(folder: Path) -> None:
    crystal = Atoms(
        "NaCl",
        [[0, 0, 0], [2.82, 0, 0]],
        cell=[[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]],
        pbc=True,
    )
    volumetric.write(folder / "CHGCAR", free_density(crystal), "t")
    found = record(folder, "CHGCAR", "--scheme", "hirshfeld,voronoi")
    assert found["electrons_expected"] == 16
    for scheme in ("hirshfeld", "voronoi"):
        np.testing.assert_allclose(charges(found, scheme), 0, rtol=0, atol=1e-4)


def test_an_ion_adds_up_to_its_charge(folder: Path) -> None:
    hydroxide = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    volume = free_density(hydroxide)
    volume.values[...] *= 8 / 7
    volumetric.write(folder / "oh.npz", volume, "t")
    found = record(folder, "oh.npz", "--charge", "-1", "--scheme", SCHEMES)
    assert found["charge"] == -1 and found["electrons_expected"] == 8
    for scheme in SCHEMES.split(","):
        assert charges(found, scheme).sum() == pytest.approx(-1, rel=0, abs=1e-4)


def test_electrons_that_are_lost_are_said(folder: Path) -> None:
    done = neupol("charges", "water.xyz", "--margin", "1", cwd=folder)
    assert done.returncode == 0
    assert "doubtful: the grid cuts the density off" in done.stderr
    strict = neupol("charges", "water.xyz", "--margin", "1", "--strict", cwd=folder)
    assert strict.returncode == 65 and strict.stdout == ""
    scaled = neupol("charges", "water.xyz", "--margin", "1", "--normalize", cwd=folder)
    assert scaled.returncode == 65 and "--normalize: the grid cuts" in scaled.stderr
    volume = free_density(water())
    volume.values[...] *= 0.97
    volumetric.write(folder / "rho.npz", volume, "t")
    few = neupol("charges", "rho.npz", cwd=folder)
    assert few.returncode == 0 and "doubtful: 7.7" in few.stderr
    found = record(folder, "rho.npz", "--no-normalize")
    assert charges(found).sum() == pytest.approx(0.24, rel=0, abs=1e-3)
    assert charges(record(folder, "rho.npz")).sum() == pytest.approx(0, rel=0, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["water.xyz", "--scheme", "becke"], 2, "--scheme takes some of hirshfeld,voronoi,mbis"),
        (["water.xyz", "--scheme", "mbis,mbis"], 2, "--scheme takes some of"),
        (["water.xyz", "--plot", "q.png"], 2, "a page's name ends in .html"),
        (["water.xyz", "-o", "q.csv"], 2, "the ending is one of .extxyz, .xyz"),
        (["water.xyz", "-m", "qm9"], 2, "qm9"),
        (["rho.npz", "--spacing", "0.1"], 2, "this density has its grid"),
        (["rho.npz", "--charge", "3"], 65, "its free atoms with their charge 5 or 7"),
        (["missing.cube"], 65, "no such file"),
        (["gold.xyz"], 65, "Au"),
        (["europium.npz"], 65, "no free atoms of Eu"),
        (["water.xyz", "--memory", "64MB", "--spacing", "0.02"], 65, "--memory"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], code: int, reason: str) -> None:
    (folder / "gold.xyz").write_text("1\n\nAu 0 0 0\n")
    volume = free_density(water())
    volumetric.write(folder / "rho.npz", volume, "t")
    europium = Atoms("Eu", [[0, 0, 0]])
    grid = by_spacing(europium, 0.4, 3.6)
    values = np.full(grid.shape, 63 / grid.size / grid.element)
    volumetric.write(folder / "europium.npz", Volume(europium, grid, values), "t")
    done = neupol("charges", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_one_bad_structure_of_many_is_left_out(folder: Path) -> None:
    (folder / "two.xyz").write_text("1\n\nAu 0 0 0\n" + WATER)
    done = neupol("charges", "two.xyz", "--on-error", "skip", "--json", cwd=folder)
    assert done.returncode == 0 and "skipped" in done.stderr
    assert [json.loads(line)["structure"] for line in done.stdout.splitlines()] == ["two.xyz#1"]


def test_nothing_that_is_left_is_an_error(folder: Path) -> None:
    (folder / "gold.xyz").write_text("1\n\nAu 0 0 0\n")
    done = neupol("charges", "gold.xyz", "--on-error", "skip", cwd=folder)
    assert done.returncode == 65 and "no structure was left" in done.stderr
