"""The atoms that a density network starts from, on densities that are sums of free atoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import FreeAtom, free_atom
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric import by_spacing
from neupol_cli.training.density_task import density_task
from neupol_cli.training.request import Request
from neupol_cli.training.spherical_atoms import known

SMALL = {"mul": 12, "lmax": 1, "layers": 1, "promolecule": 16, "cutoff": 4.0}
VALENCE = {1: 1.0, 8: 6.0, 9: 7.0}


def sums_of_free_atoms(path: Path) -> hdf5.Dataset:
    """Water to train on, hydrogen fluoride to test on."""
    with DensityWriter(path, "made up") as writer:
        for atoms in (molecule("H2O"), molecule("HF")):
            grid = by_spacing(atoms, 0.25, 3.6)
            free = [free_atom(int(number), True) for number in atoms.numbers]
            writer.add(atoms, pieces.promolecule(atoms, grid, free), grid.origin, grid.step)
        counts = hdf5.Target(np.array([8.0, 8.0]), "e")
        writer.label({"electrons": counts}, {"electrons": VALENCE})
        one, other, none = np.array([0]), np.array([1]), np.array([], int)
        writer.split("default", {"train": one, "valid": none, "test": other})
    return hdf5.read(path)


def electrons_off(fitted: torch.Tensor, atom: FreeAtom, radii: torch.Tensor) -> float:
    """Electrons by which a fitted atom's shells are off, in all."""
    truth = torch.from_numpy(atom.density(radii.numpy()))
    return float((4 * np.pi * radii**2 * (fitted - truth).abs()).sum() * (radii[1] - radii[0]))


@pytest.mark.parametrize("number", [1, 8, 9])
def test_atoms_are_free_ones_whether_the_data_have_them_or_not(number: int, tmp_path: Path) -> None:
    request = Request(config=SMALL, dtype="float64")
    model = density_task("charge3net", sums_of_free_atoms(tmp_path / "rho.h5"), request).model
    assert model.promolecule is not None and model.config.species == (1, 8, 9)
    radii = torch.linspace(0.005, 4.0, 800, dtype=torch.float64)
    column = torch.full((len(radii),), model.config.species.index(number))
    fitted = model.promolecule(radii**2, column)
    assert electrons_off(fitted, free_atom(number, True), radii) < 0.12


def test_free_atoms_of_other_valences_are_not_known() -> None:
    assert set(known((1, 6, 79), {1: 1.0, 6: 4.0, 79: 19.0})) == {0, 1}  # the table's gold has 11
    assert set(known((1, 8), {1: 1.0, 8: 8.0})) == {0, 1}  # all electrons
    assert not known((6,), {})
