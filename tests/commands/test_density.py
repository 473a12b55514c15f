"""``neupol density`` with an analytic model in place of a network.

The stand-in is a sum of Gaussian atoms with the valence of its convention, so that every printed
number is known.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.vasp import VaspChargeDensity
from ase.io import write as ase_write
from ase.io.cube import read_cube

from neupol_cli import app
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.errors import TemporaryError
from neupol_cli.io import hdf5, volumetric
from neupol_cli.io.units import BOHR, DEBYE
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing
from neupol_cli.io.volumetric.coverage import fills_cell
from neupol_cli.io.volumetric.h5 import volume_of
from tests.commands import gaussians
from tests.commands.gaussians import WATER, Gaussians, result, run

CELL = np.array([[3.1, 0.2, 0.0], [-1.4, 2.9, 0.3], [0.1, 0.5, 4.0]])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gaussians:
    return gaussians.in_place(monkeypatch, tmp_path)


def test_water_counts_its_electrons_before_and_after(model, capsys) -> None:
    report = result(capsys, "water.xyz", "-o", "rho.cube", "--spacing", "0.15", "--normalize")
    assert report["electrons_sum"] == pytest.approx(7.84, rel=0, abs=1e-4)
    assert report["electrons_expected"] == 8.0
    assert report["electrons"] == pytest.approx(8.0, rel=0, abs=1e-6)
    assert report["electrons_grid_error"] < 1e-3
    assert report["points"] == np.prod(report["grid"]) and max(report["spacing_Angstrom"]) <= 0.15
    # The centre of the electrons, scaled to a neutral whole, against that of the ions.
    z = np.array([0.1173, -0.4692, -0.4692])
    electrons = np.array([6.32, 0.76, 0.76]) * 8.0 / 7.84
    expected = ((np.array([6.0, 1.0, 1.0]) - electrons) @ z) / DEBYE
    np.testing.assert_allclose(report["dipole_D"], [0, 0, expected], rtol=0, atol=2e-4)
    with open("rho.cube") as stream:
        found = read_cube(stream)
    total = found["data"].sum() * abs(np.linalg.det(found["spacing"])) / BOHR**3
    assert total == pytest.approx(8.0, rel=0, abs=1e-6)


def test_scaling_single_numbers_keeps_the_sum_to_1e_8() -> None:
    values = np.random.default_rng(0).random((60, 60, 60)).astype(np.float32)
    wanted = values.sum(dtype=np.float64) * 1.0025917
    measures.scale(values, 1.0025917)
    assert values.dtype == np.float32
    assert values.sum(dtype=np.float64) / wanted == pytest.approx(1.0, rel=0, abs=1e-8 / 3)


def test_people_get_units_and_the_grids_own_error(model, capsys) -> None:
    code, out, err = run(capsys, "water.xyz", "-o", "rho.xsf", "--spacing", "0.4")
    assert code == 0 and err == ""
    for words in ("points, step 0.", "Angstrom", "of 8, sum over the grid", " D = |", "probes/s"):
        assert words in out, words
    assert "the grid's own error: about" in out


@pytest.mark.parametrize("name", ["CHGCAR", "rho.cube", "rho.h5", "rho.cube.gz"])
def test_every_format_holds_the_same_electrons(model, capsys, name: str) -> None:
    report = result(capsys, "water.xyz", "-o", name, "--grid", "40,42,44", "--normalize")
    assert report["grid"] == [40, 42, 44]
    assert volumetric.read(name).electrons == pytest.approx(8.0, rel=0, abs=1e-6)


def test_a_chgcar_names_its_grid_and_what_vasp_needs(model, capsys) -> None:
    code, _, err = run(capsys, "water.xyz", "-o", "CHGCAR", "--grid", "40,42,44", "--normalize")
    assert code == 0
    assert "NGXF NGYF NGZF = 40 42 44" in err
    assert "ICHARG=1" in err and "ICHARG=11 needs" in err
    found = VaspChargeDensity("CHGCAR")
    total = found.chg[0].sum() * found.atoms[0].get_volume() / found.chg[0].size
    assert total == pytest.approx(8.0, rel=0, abs=1e-6)


def test_a_crystal_fills_its_cell_and_has_no_dipole(model, capsys) -> None:
    ase_write("POSCAR", Atoms("OC", [[0.3, 0.2, 0.1], [1.5, 1.2, 2.0]], cell=CELL, pbc=True))
    report = result(capsys, "POSCAR", "-o", "CHGCAR", "--spacing", "0.2", "--normalize")
    assert "dipole_D" not in report and report["electrons_expected"] == 10.0
    assert report["electrons_sum"] == pytest.approx(10.22, rel=0, abs=1e-3)
    np.testing.assert_allclose(volumetric.read("CHGCAR").grid.box, CELL, rtol=0, atol=1e-9)


def test_a_reference_gives_its_grid_the_error_and_the_difference(model, capsys) -> None:
    atoms = Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
    grid = by_counts(atoms, (31, 36, 33), 3.0)
    values = Gaussians().density(atoms, torch.from_numpy(grid.points())).numpy().reshape(grid.shape)
    volumetric.write("ref.cube", Volume(atoms, grid, values * 0.9), "reference")
    report = result(
        capsys, "ref.cube", "-o", "rho.cube", "--reference", "ref.cube", "--difference", "d.cube"
    )  # the structure is that of the reference, too
    assert report["grid"] == [31, 36, 33]
    assert report["eps_mae_percent"] == pytest.approx(100 / 9, rel=0, abs=1e-3)
    difference = volumetric.read("d.cube")
    np.testing.assert_allclose(difference.values, values * 0.1, rtol=0, atol=1e-5)
    code, _, err = run(
        capsys, "water.xyz", "-o", "a.cube", "--reference", "ref.cube", "--spacing", "0.3"
    )
    assert code == 2 and "reference's grid" in err
    Path("methane.xyz").write_text("2\n\nC 0 0 0\nO 0 0 1.1\n")
    code, _, err = run(capsys, "methane.xyz", "-o", "a.cube", "--reference", "ref.cube")
    assert code == 65 and "other atoms" in err
    Path("moved.xyz").write_text(WATER.replace("0.1173", "0.2173"))
    code, _, err = run(capsys, "moved.xyz", "-o", "a.cube", "--reference", "ref.cube")
    assert code == 65 and "up to 0.10 Angstrom away" in err


def test_a_reference_in_another_order_and_image_needs_no_output(model, capsys) -> None:
    atoms = Atoms("OCO", [[0.3, 0.2, 0.1], [1.5, 1.2, 2.0], [2.4, 2.2, 3.4]], cell=CELL, pbc=True)
    grid = by_counts(atoms, (16, 15, 20), 3.0)
    values = Gaussians().density(atoms, torch.from_numpy(grid.points())).numpy().reshape(grid.shape)
    volumetric.write("CHGCAR", Volume(atoms, grid, values), "reference")
    moved = atoms[[1, 2, 0]]
    moved.positions[0] += CELL[0] - CELL[2]
    ase_write("POSCAR", moved)
    report = result(capsys, "POSCAR", "--reference", "CHGCAR")
    assert report["eps_mae_percent"] < 1e-3 and report["output"] == ""
    moved.positions[0] += 0.2
    ase_write("POSCAR", moved)
    code, _, err = run(capsys, "POSCAR", "--reference", "CHGCAR")
    assert code == 65 and "Angstrom away" in err
    code, _, err = run(capsys, "POSCAR")
    assert code == 2 and "-o names the file" in err


def test_all_electrons_are_no_reference_for_valence_ones(model, capsys) -> None:
    atoms = Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
    grid = by_spacing(atoms, 0.3, 3.0)
    values = Gaussians().density(atoms, torch.from_numpy(grid.points())).numpy().reshape(grid.shape)
    scaled = values * 10.003 / (values.sum() * grid.element)
    volumetric.write("all.cube", Volume(atoms, grid, scaled), "reference")
    call = ["water.xyz", "--reference", "all.cube"]
    code, _, err = run(capsys, *call)
    assert code == 65 and "holds 10.003 electrons, all that there are" in err
    assert "--accept" in err
    assert result(capsys, *call, "--accept")["eps_mae_percent"] > 20
    code = app._run(["density-compare", "all.cube", "-m", "stand-in"])
    assert code == 65 and "10.003 electrons" in capsys.readouterr().err
    volumetric.write("v.cube", Volume(atoms, grid, values - 1.0), "HARTREE POTENTIAL")
    code, _, err = run(capsys, "water.xyz", "--reference", "v.cube")
    assert code == 65 and "its title says 'POTENTIAL'" in err


def test_a_grid_that_misses_the_molecule_is_said(model, capsys) -> None:
    far = Grid(np.full(3, 9.0), 0.5 * np.eye(3), (8, 8, 8))
    volumetric.write("far.cube", Volume(Atoms("H", [[9.5] * 3]), far, np.ones(far.shape)), "t")
    code, _, err = run(capsys, "water.xyz", "-o", "a.cube", "--grid-from", "far.cube")
    assert code == 0 and "the grid cuts the density off: atom" in err and "outside of it" in err


def test_a_grid_of_another_cell_has_no_whole_to_normalise(model, capsys) -> None:
    atoms = Atoms("OC", [[0.3, 0.2, 0.1], [1.5, 1.2, 2.0]], cell=CELL, pbc=True)
    ase_write("POSCAR", atoms)
    half = Grid(np.zeros(3), CELL / 20, (10, 10, 10))
    volumetric.write("half.npz", Volume(atoms, half, np.ones(half.shape)), "half a cell")
    report = result(capsys, "POSCAR", "-o", "a.xsf", "--grid-from", "half.npz")
    assert report["electrons_expected"] is None
    back = volumetric.read("a.xsf")
    assert back.grid.same_as(half, 1e-9)
    np.testing.assert_allclose(back.atoms.cell.array, CELL, rtol=0, atol=1e-9)
    code, _, err = run(capsys, "POSCAR", "-o", "b.cube", "--grid-from", "half.npz")
    assert code == 2 and "b.cube: the grid does not fill the cell, which a cube takes it for" in err
    call = ["POSCAR", "-o", "b.npz", "--grid-from", "half.npz", "--normalize"]
    code, _, err = run(capsys, *call)
    assert code == 2 and "has to fill the cell" in err


def test_an_xsf_is_a_structure_a_grid_and_a_reference(model, capsys) -> None:
    result(capsys, "water.xyz", "-o", "rho.xsf", "--spacing", "0.4")
    result(capsys, "rho.xsf", "-o", "again.xsf", "--grid-from", "rho.xsf")
    first, second = volumetric.read("rho.xsf"), volumetric.read("again.xsf")
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.atoms.positions, second.atoms.positions)
    report = result(capsys, "water.xyz", "--reference", "rho.xsf", "--accept")
    assert report["eps_mae_percent"] == pytest.approx(0.0, rel=0, abs=1e-4)
    Path("alone.xsf").write_text(Path("rho.xsf").read_text().partition("BEGIN_BLOCK")[0])
    assert result(capsys, "alone.xsf", "-o", "c.cube", "--spacing", "0.4")["points"] > 0
    code, _, err = run(capsys, "water.xyz", "-o", "d.cube", "--grid-from", "alone.xsf")
    assert code == 65 and "alone.xsf: no data grid" in err


def test_a_grid_that_cuts_a_molecule_off_has_no_whole_either(model, capsys) -> None:
    around = Grid(np.full(3, -3.0), 0.3 * np.eye(3), (20, 20, 20))
    assert fills_cell(around, Atoms("H", [[0.5, 0.0, -0.5]]))
    for place in ([2.0, 0, 0], [0, -1.5, 0], [0, 0, 9.0]):
        assert not fills_cell(around, Atoms("H", [place]))
    narrow = ["water.xyz", "-o", "a.cube", "--margin", "0.5", "--spacing", "0.4"]
    code, _, err = run(capsys, *narrow, "--normalize")
    assert code == 2 and "--margin" in err and not Path("a.cube").exists()
    report = result(capsys, *narrow)
    assert report["electrons_expected"] is None and "dipole_D" not in report


def test_what_is_no_density_is_not_read_as_one(model, capsys) -> None:
    result(capsys, "water.xyz", "-o", "a.cube", "--spacing", "0.5")
    lines = Path("a.cube").read_text().splitlines(keepends=True)
    Path("iri.cube").write_text("".join([lines[0], "values in atomic units\n", *lines[2:]]))
    for call in (
        ["density-compare", "iri.cube"],
        ["density", "water.xyz", "-o", "b.cube", "--reference", "iri.cube"],
    ):
        code = app._run(call)
        assert code == 65 and "it holds no density" in capsys.readouterr().err


def test_names_of_outputs_that_cannot_be_meant(model, capsys) -> None:
    code, _, err = run(capsys, "water.xyz", "-o", "w.h5.gz")
    assert code == 2 and "leave out .gz" in err
    result(capsys, "water.xyz", "-o", "w.cube", "--spacing", "0.5")
    same = ["-o", "a.cube", "--reference", "w.cube", "--difference", "./a.cube"]
    code, _, err = run(capsys, "water.xyz", *same)
    assert code == 2 and "the file that -o names" in err
    code, _, err = run(capsys, "water.xyz", "-o", "a.cube", "--margin", "1e300")
    assert code == 2 and "--margin" in err


def test_spin_goes_where_a_format_has_room_for_it(model, capsys) -> None:
    model.config.spin = True
    report = result(capsys, "water.xyz", "-o", "CHGCAR", "--grid", "40,40,40", "--normalize")
    assert report["spin_sum"] == pytest.approx(7.84 / 4, rel=0, abs=1e-2)
    back = volumetric.read("CHGCAR")
    assert back.spin is not None and back.electrons == pytest.approx(8.0, rel=0, abs=1e-6)
    result(capsys, "water.xyz", "-o", "rho.h5", "--grid", "40,40,40", "--plot", "spin.png")
    np.testing.assert_allclose(volumetric.read("rho.h5").spin, back.spin, rtol=0, atol=1e-6)


def test_several_structures_go_into_one_hdf5_or_numbered_files(model, capsys) -> None:
    Path("two.xyz").write_text(WATER + "2\n\nC 0 0 0\nO 0 0 1.1\n")
    code, out, err = run(capsys, "two.xyz", "-o", "all.h5", "--spacing", "0.5", "--json")
    assert code == 0, err
    assert [json.loads(line)["formula"] for line in out.splitlines()] == ["H2O", "CO"]
    dataset = hdf5.read("all.h5")
    assert dataset.size == 2 and volume_of(dataset, 1).atoms.get_chemical_formula() == "CO"
    code, _, err = run(capsys, "two.xyz", "-o", "rho_{}.cube", "--spacing", "0.5")
    assert code == 0 and Path("rho_0.cube").exists() and Path("rho_1.cube").exists()
    code, _, err = run(capsys, "two.xyz", "-o", "rho.cube")
    assert code == 2 and "needs {}" in err


def test_the_structures_of_a_dataset_are_predicted_one_by_one(model, capsys) -> None:
    waters = [Atoms("OH2", [[0, 0, 0.1], [0, y, -0.5], [0, -0.8, -0.5]]) for y in (0.7, 0.8, 0.9)]
    hdf5.write("plain.h5", hdf5.from_atoms(waters, "structures", "made up"))
    code, out, err = run(capsys, "plain.h5", "-o", "rho.h5", "--spacing", "0.5", "--json")
    assert code == 0, err
    names = [json.loads(line)["structure"] for line in out.splitlines()]
    assert names == ["plain.h5#0", "plain.h5#1", "plain.h5#2"]
    code, out, err = run(capsys, "rho.h5", "-o", "again.h5", "--spacing", "0.5", "--json")
    assert code == 0, err  # the densities that were made are structures, too
    assert hdf5.read("again.h5").size == 3
    several = "holds 3 densities; one is needed here"
    for option in ("--grid-from", "--reference"):
        code, _, err = run(capsys, "water.xyz", "-o", "a.cube", option, "rho.h5")
        assert code == 2 and several in err


def test_an_unseen_element_is_named_and_skipped_only_when_asked(model, capsys) -> None:
    Path("two.xyz").write_text("2\n\nO 0 0 0\nS 0 0 1.5\n" + WATER)
    code, _, err = run(capsys, "two.xyz", "-o", "rho.h5", "--spacing", "0.5")
    assert code == 65
    assert "two.xyz#0: atom 2 is S" in err and "trained on H C O" in err
    assert not Path("rho.h5").exists() and not list(Path().glob("*.partial"))
    code, out, err = run(
        capsys, "two.xyz", "-o", "rho.h5", "--spacing", "0.5", "--on-error", "skip", "--json"
    )
    assert code == 0 and "skipped" in err and len(out.splitlines()) == 1
    assert hdf5.read("rho.h5").size == 1


def test_ions_and_models_of_unknown_convention_need_a_number(model, capsys) -> None:
    report = result(
        capsys, "water.xyz", "-o", "a.cube", "--spacing", "0.3", "--electrons", "9", "--normalize"
    )
    assert report["electrons"] == pytest.approx(9.0, rel=0, abs=1e-6)
    model.header = {"model": "charge3net"}
    code, _, err = run(capsys, "water.xyz", "-o", "b.cube", "--spacing", "0.3", "--normalize")
    assert code == 2 and "add --electrons N" in err and not Path("b.cube").exists()
    report = result(capsys, "water.xyz", "-o", "b.cube", "--spacing", "0.3")
    assert report["electrons_expected"] is None and "dipole_D" not in report


def test_out_of_memory_halves_the_tiles(model, capsys) -> None:
    model.fails_above = 300_000_000
    result(capsys, "water.xyz", "-o", "a.cube", "--spacing", "0.5", "--memory", "1GB")
    assert len(model.budgets) == 3 and model.budgets[2] == pytest.approx(2.5e8, rel=0.01)
    model.fails_above = 0
    with pytest.raises(TemporaryError, match="smallest tiles"):
        predict(model, Atoms("H"), by_spacing(Atoms("H"), 0.5, 1.0), 1 << 28, lambda done: None)
