"""``neupol density --augmentation-from``: occupancies of an earlier CHGCAR behind a new grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.vasp import VaspChargeDensity
from ase.io import write as ase_write

from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume, by_counts
from neupol_cli.io.volumetric.augmentation import Augmentation, Occupancies
from tests.commands import gaussians
from tests.commands.gaussians import Gaussians, result, run

CELL = np.array([[5.1, 0.2, 0.0], [-1.4, 4.9, 0.3], [0.1, 0.5, 6.0]])
PLACES = [[0.3, 0.2, 0.1], [1.5, 1.2, 2.0], [2.4, 2.2, 3.4], [4.0, 4.1, 5.0]]
WITH = ["--augmentation-from", "OLD_CHGCAR"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gaussians:
    return gaussians.in_place(monkeypatch, tmp_path)


def crystal(symbols: str = "OCOH") -> Atoms:
    return Atoms(symbols, PLACES, cell=CELL, pbc=True)


def occupancies(seed: int, atoms: Atoms) -> Occupancies:
    """Eight digits for oxygen, fewer of them for others, as VASP has."""
    random = np.random.default_rng(seed)
    return tuple(
        np.float64([f"{x:.7E}" for x in random.normal(size=33 if n == 8 else 7)])
        for n in atoms.numbers
    )


def earlier(atoms: Atoms, spin: bool = False) -> Augmentation:
    """Writes OLD_CHGCAR on a grid of 18 x 16 x 20; what occupancies are in it."""
    grid = by_counts(atoms, (18, 16, 20), 3.0)
    values = np.linspace(0.1, 0.9, grid.size).reshape(grid.shape)
    second = occupancies(2, atoms) if spin else None
    moments = np.array([2.0, 0.5, -2.0, 1.0]) if spin else None
    held = Augmentation(occupancies(1, atoms), second, moments)
    volume = Volume(atoms, grid, values, values / 4 if spin else None, augmentation=held)
    volumetric.write("OLD_CHGCAR", volume, "an earlier run")
    return held


def assert_same(found: Occupancies, wanted: Sequence[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_occupancies_and_grid_are_the_earlier_files_the_density_the_models(model, capsys) -> None:
    held = earlier(crystal())
    moved = crystal()
    moved.positions += [[0.05, -0.1, 0.0], [0.2, 0, 0], [0, -0.3, 0.1], [0, 0, 0.2]]
    ase_write("POSCAR", moved)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH, "--normalize")
    assert code == 0 and "PAW augmentation occupancies are those of OLD_CHGCAR" in err
    assert "the grid is predicted" in err and "ICHARG=1;" in err
    found = volumetric.read("CHGCAR")
    assert found.augmentation is not None and found.augmentation.spin is None
    assert found.grid.shape == (18, 16, 20)
    assert found.electrons == pytest.approx(17.0, rel=0, abs=1e-5)
    np.testing.assert_allclose(found.atoms.positions, moved.positions, rtol=0, atol=1e-12)
    assert_same(found.augmentation.total, held.total)
    assert "augmentation occupancies of OLD_CHGCAR" in found.notes["title"]
    lines = Path("CHGCAR").read_text().splitlines()
    heads = [line for line in lines if line.startswith("augmentation")]
    assert heads[0] == "augmentation occupancies   1  33"  # Fortran's 2I4 behind 24 characters
    assert heads[1] == "augmentation occupancies   2   7" and len(heads) == 4
    others = VaspChargeDensity("CHGCAR").aug.split("augmentation occupancies")[1:]
    for block, values in zip(others, held.total, strict=True):
        np.testing.assert_array_equal(np.float64(block.split()[2:]), values)


def test_without_the_option_there_is_the_same_grid_and_nothing_behind_it(model, capsys) -> None:
    earlier(crystal())
    ase_write("POSCAR", crystal())
    result(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    result(capsys, "POSCAR", "-o", "PLAIN_CHGCAR", "--grid-from", "OLD_CHGCAR")
    lines = Path("PLAIN_CHGCAR").read_text().splitlines()[1:]
    assert lines == Path("CHGCAR").read_text().splitlines()[1 : len(lines) + 1]
    assert volumetric.read("PLAIN_CHGCAR").augmentation is None


def test_occupancies_go_to_their_atoms_in_whatever_order_and_image(model, capsys) -> None:
    held = earlier(crystal(), spin=True)
    model.config.spin = True
    order = [2, 3, 0, 1]
    moved = crystal()[order]
    moved.positions[0] += CELL[0] - CELL[2] + 0.1
    ase_write("POSCAR", moved)
    result(capsys, "POSCAR", "-o", "CHGCAR.gz", *WITH, "--grid", "20,20,20")
    found = volumetric.read("CHGCAR.gz")
    assert found.augmentation is not None and found.augmentation.spin is not None
    assert held.spin is not None and held.moments is not None
    assert found.grid.shape == (20, 20, 20)
    assert_same(found.augmentation.total, [held.total[ion] for ion in order])
    assert_same(found.augmentation.spin, [held.spin[ion] for ion in order])
    np.testing.assert_array_equal(found.augmentation.moments, held.moments[order])


def test_a_molecule_is_found_in_the_box_of_its_run(model, capsys) -> None:
    water = Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
    box = Atoms("H2O", water.positions[[2, 1, 0]] + 4.0, cell=[8, 8, 8], pbc=True)
    held = earlier(box)
    water.positions += 4.0
    ase_write("placed.xyz", water)
    result(capsys, "placed.xyz", "-o", "CHGCAR", *WITH)
    found = volumetric.read("CHGCAR").augmentation
    assert found is not None
    assert_same(found.total, held.total[::-1])


@pytest.mark.parametrize(
    ("symbols", "message"),
    [("OCHH", "OLD_CHGCAR: is of CHO2, the structure is CH2O"), ("OCO", "the structure is CO2")],
)
def test_other_atoms_are_refused(model, capsys, symbols: str, message: str) -> None:
    earlier(crystal())
    ase_write("POSCAR", Atoms(symbols, PLACES[: len(symbols)], cell=CELL, pbc=True))
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and message in err and len(err.splitlines()) == 1
    assert not Path("CHGCAR").exists()


def test_atoms_that_went_too_far_are_refused(model, capsys) -> None:
    earlier(crystal())
    moved = crystal()
    moved.positions[1] += [0.8, 0.0, 0.7]
    ase_write("POSCAR", moved)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "atom 2 of the structure has no counterpart of its own" in err
    both = crystal()
    both.positions[2] = both.positions[0] + 0.3  # two for one
    ase_write("POSCAR", both)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "atom 3 of the structure has no counterpart of its own" in err


def test_a_file_without_all_occupancies_is_refused(model, capsys) -> None:
    earlier(crystal())
    ase_write("POSCAR", crystal())
    whole = Path("OLD_CHGCAR").read_text()
    Path("OLD_CHGCAR").write_text(whole.partition("augmentation occupancies  ")[0])
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "OLD_CHGCAR: holds no PAW augmentation occupancies" in err
    complex_ones = whole + "augmentation occupancies (imaginary part)   4   2\n 0.1 0.2\n"
    Path("OLD_CHGCAR").write_text(complex_ones)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "complex augmentation occupancies" in err
    Path("OLD_CHGCAR").write_text(whole[: whole.rindex("augmentation")])
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "for 3 of 4 ions (truncated?)" in err


def test_the_spins_occupancies_are_needed_too(model, capsys) -> None:
    earlier(crystal(), spin=True)
    model.config.spin = True
    ase_write("POSCAR", crystal())
    whole = Path("OLD_CHGCAR").read_text()
    second = whole.index("augmentation", whole.index("\n   18   16   20\n", 1000 * 20))
    Path("OLD_CHGCAR").write_text(whole[:second])
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "no PAW augmentation occupancies, or not all of them" in err


def test_spin_on_one_side_only_is_refused(model, capsys) -> None:
    ase_write("POSCAR", crystal())
    earlier(crystal(), spin=True)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "is of a run with spin, the model's densities have none" in err
    earlier(crystal())
    model.config.spin = True
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 65 and "is of a run without spin, the model's densities have one" in err


@pytest.mark.parametrize("output", [["-o", "rho.cube"], ["-o", "rho.h5"], []])
def test_other_outputs_have_no_place_for_them(model, capsys, output: list[str]) -> None:
    earlier(crystal())
    ase_write("POSCAR", crystal())
    code, _, err = run(capsys, "POSCAR", *output, "--plot", "rho.png", *WITH)
    assert code == 2 and "--augmentation-from: only a CHGCAR holds them" in err
    assert len(err.splitlines()) == 1


def test_a_cell_that_changed_takes_counts_in_place_of_the_files_grid(model, capsys) -> None:
    held = earlier(crystal())
    moved = crystal()
    moved.set_cell(CELL * 1.03, scale_atoms=True)
    ase_write("POSCAR", moved)
    code, _, err = run(capsys, "POSCAR", "-o", "CHGCAR", *WITH)
    assert code == 2 and "the grid does not fill the cell, as it must; take --grid" in err
    result(capsys, "POSCAR", "-o", "CHGCAR", *WITH, "--grid", "18,16,20")
    found = volumetric.read("CHGCAR").augmentation
    assert found is not None
    assert_same(found.total, held.total)
