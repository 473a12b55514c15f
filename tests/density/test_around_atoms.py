"""What of a grid is nearest to which atom, and what a model says of itself around each."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli import registry
from neupol_cli.density.around_atoms import AroundAtoms, by_nearest_atom
from neupol_cli.errors import DivergedError
from neupol_cli.io.volumetric import Grid

SKEWED = np.array([[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [-0.5, 0.7, 5.0]])


def test_a_plane_between_two_atoms() -> None:
    """Ten points along x, 0.5 Angstrom apart: four are on the left of x = 1.8."""
    atoms = ase.Atoms("OH", [[0.6, 0.5, 0.5], [3.0, 0.5, 0.5]])
    grid = Grid(np.zeros(3), np.diag([0.5, 0.4, 0.3]), (10, 2, 3))
    values = np.arange(60.0)
    sums = by_nearest_atom(values, grid, atoms)
    np.testing.assert_allclose(sums, [0.06 * 276, 0.06 * 1494], rtol=0, atol=1e-12)


def test_images_across_the_faces_of_a_cell() -> None:
    """Both atoms of a body-centred cell have half of it, wherever the two lie."""
    shape = (8, 6, 10)
    grid = Grid(np.zeros(3), SKEWED / np.array(shape)[:, None], shape)
    volume = np.linalg.det(SKEWED)
    for shift in ([0.01, 0.02, 0.03], [0.9, 0.3, 0.6]):
        scaled = np.array([shift, np.add(shift, 0.5)])
        atoms = ase.Atoms("CC", scaled_positions=scaled, cell=SKEWED, pbc=True)
        sums = by_nearest_atom(np.ones(grid.size), grid, atoms)
        np.testing.assert_allclose(sums, volume / 2, rtol=0, atol=1e-9)


def test_every_point_counts_once_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = molecule("CH3CH2OH")
    grid = Grid(np.full(3, -4.0), np.diag([0.8, 0.7, 0.9]), (10, 11, 9))
    values = np.random.default_rng(0).random(grid.size)
    sums = by_nearest_atom(values, grid, atoms)
    np.testing.assert_allclose(sums.sum(), values.sum() * grid.element, rtol=0, atol=1e-9)
    order = np.random.default_rng(1).permutation(len(atoms))
    np.testing.assert_allclose(
        by_nearest_atom(values, grid, atoms[order]), sums[order], rtol=0, atol=1e-9
    )
    monkeypatch.setattr("neupol_cli.density.around_atoms.POINTS", 77)
    np.testing.assert_allclose(by_nearest_atom(values, grid, atoms), sums, rtol=0, atol=1e-12)


def test_the_bundled_model_knows_where_it_is_doubtful() -> None:
    """Methanol is like what it was trained on; pulled apart, its ends are not."""
    model, atoms = registry.load_density("density"), molecule("CH3OH")
    features = model.atom_features(atoms)
    around = AroundAtoms.of(model, features, atoms)
    assert around is not None and len(around.bounds) == 6
    assert around.worst == "atom 2 (O)" and max(around.bounds) == around.bounds[1] < 0.05
    pulled = atoms.copy()
    pulled.positions[[1, 3]] += [0.0, -0.4, 0.0]  # O and its hydrogen
    bounds = model.atom_uncertainty(model.atom_features(pulled)).numpy()
    assert (bounds[:2] > 2 * np.array(around.bounds[:2])).all()
    assert bounds[2:].max() < bounds[:2].min()
    ethane = molecule("C2H6")
    alike = AroundAtoms.of(model, model.atom_features(ethane), ethane)
    assert alike is not None and alike.worst == "atom 1 (C)"
    model.atom_calibration = None
    assert AroundAtoms.of(model, features, atoms) is None


def test_a_bound_that_is_no_number_is_never_said() -> None:
    model, water = registry.load_density("density"), molecule("H2O")
    features = model.atom_features(water)
    assert model.atom_calibration is not None
    for bound in (model.atom_calibration.low, model.atom_calibration.high):
        bound.fill_(1e4)
    with pytest.raises(DivergedError):
        model.atom_uncertainty(features)
    assert bool(torch.isfinite(model.density(features, torch.zeros(1, 3))).all())
