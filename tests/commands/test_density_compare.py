"""``neupol density-compare`` of two densities, atom by atom, and their difference as a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume, by_spacing
from tests.warm import neupol

WATER = Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
MOVED = 0.2  # electrons, from the first hydrogen to the second


def densities() -> tuple[Volume, Volume]:
    """Free atoms, and the same with electrons moved, a Gaussian of them."""
    grid = by_spacing(WATER, 0.25, 3.6)
    free = [free_atom(int(number), True) for number in WATER.numbers]
    true = pieces.promolecule(WATER, grid, free)
    apart = np.linalg.norm(grid.points() - WATER.positions[1:, None], axis=-1)  # (2, P)
    bells = np.exp(-((apart / 0.5) ** 2)) / (0.5**2 * np.pi) ** 1.5
    moved = MOVED * (bells[1] - bells[0]).reshape(grid.shape)
    return Volume(WATER, grid, true + moved), Volume(WATER, grid, true)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, volume in zip(("a.npz", "b.npz"), densities(), strict=True):
        volumetric.write(tmp_path / name, volume, "t")
    return tmp_path


def record(folder: Path, *arguments: str) -> dict[str, Any]:
    done = neupol("density-compare", *arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return found


def test_atoms_have_their_parts_of_the_error_and_their_charges(folder: Path) -> None:
    found = record(folder, "a.npz", "--reference", "b.npz", "--atoms")
    atoms, judged, true = found["atoms"], *densities()
    moved = np.abs(judged.values - true.values).sum() / true.values.sum()
    assert found["eps_mae_percent"] == pytest.approx(100 * moved, rel=0, abs=1e-6)
    errors = np.array(atoms["eps_mae_parts_percent"])
    assert errors.sum() == pytest.approx(found["eps_mae_percent"], rel=0, abs=1e-6)
    assert errors[1] == pytest.approx(errors[2], rel=0, abs=1e-6) and (errors > 0.3).all()
    moved_electrons = np.abs(judged.values - true.values).sum() * true.grid.element
    assert sum(atoms["errors_electrons"]) == pytest.approx(moved_electrons, rel=0, abs=1e-6)
    np.testing.assert_allclose(atoms["charges_reference_e"], 0, rtol=0, atol=1e-6)
    charges = np.array(atoms["charges_e"])
    assert charges.sum() == pytest.approx(0, rel=0, abs=1e-4)
    assert charges[1] > 0.1 and charges[2] == pytest.approx(-charges[1], rel=0, abs=1e-3)
    np.testing.assert_allclose(atoms["dipole_reference_D"], 0, rtol=0, atol=1e-5)
    expected = MOVED * 2 * 0.7572 / 0.2081943  # away from where the electrons went
    np.testing.assert_allclose(atoms["dipole_D"], [0, expected, 0], rtol=0, atol=2e-3)


def test_spin_densities_are_compared_where_there_are_any(folder: Path) -> None:
    judged, true = densities()
    whole = true.values.sum() * true.grid.element
    for name, volume, share in (("a.npz", judged, 0.3), ("b.npz", true, 0.25)):
        volumetric.write(folder / name, replace(volume, spin=share * true.values), "t")
    found = record(folder, "a.npz", "--reference", "b.npz")
    assert found["eps_mae_spin_percent"] == pytest.approx(20, rel=0, abs=1e-6)
    assert found["spin_sum"] == pytest.approx(0.3 * whole, rel=0, abs=1e-6)
    volumetric.write(folder / "b.npz", replace(true, spin=0 * true.values), "t")
    assert "eps_mae_spin_percent" not in record(folder, "a.npz", "--reference", "b.npz")
    volumetric.write(folder / "b.npz", true, "t")
    assert "eps_mae_spin_percent" not in record(folder, "a.npz", "--reference", "b.npz")


def test_the_difference_is_a_file(folder: Path) -> None:
    found = record(folder, "a.npz", "--reference", "b.npz", "-o", "diff.cube")
    assert found["output"] == "diff.cube" and "atoms" not in found
    judged, true = densities()
    difference = volumetric.read(folder / "diff.cube")
    expected = judged.values - true.values
    np.testing.assert_allclose(difference.values, expected, rtol=0, atol=1e-7)
    refused = neupol("charges", "diff.cube", cwd=folder)
    assert refused.returncode == 65 and "is no electron density" in refused.stderr


def test_a_model_beside_a_density_in_words(folder: Path) -> None:
    done = neupol(
        "density-compare", "b.npz", "-m", "density", "--atoms", "-o", "d.cube", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "written    d.cube" in done.stdout
    (dipole,) = [line for line in done.stdout.splitlines() if line.startswith("  dipole")]
    assert float(dipole.split()[1]) == pytest.approx(2.0, rel=0, abs=0.1)
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[1:2] == ["O"]]
    assert float(rows[0][3]) == pytest.approx(-0.30, rel=0, abs=0.02)
    assert float(rows[0][4]) == pytest.approx(0, rel=0, abs=1e-4)


def test_several_differences_need_several_names(folder: Path) -> None:
    for name, volume in zip(("many.h5", "true.h5"), densities(), strict=True):
        volumetric.h5.write(folder / name, [volume, volume], "t")
    pair = ("many.h5", "--reference", "true.h5")
    done = neupol("density-compare", *pair, "-o", "d{}.cube", cwd=folder)
    assert done.returncode == 0, done.stderr
    first, second = (volumetric.read(folder / f"d{k}.cube").values for k in (0, 1))
    np.testing.assert_array_equal(first, second)
    one = neupol("density-compare", *pair, "-o", "d.cube", cwd=folder)
    assert one.returncode == 2 and "the name needs {}" in one.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--atoms"], "-o, --atoms and pages compare"),
        (["-o", "d.cube"], "-o, --atoms and pages compare"),
        (["--reference", "b.npz", "-o", "d.png"], "the name must end in"),
        (["--reference", "b.npz", "-o", "no/d.cube"], "the folder"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], reason: str) -> None:
    done = neupol("density-compare", "a.npz", *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""
