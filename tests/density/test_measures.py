"""The plane of a picture, and the error that a grid has by itself."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from neupol_cli.density import measures, plot
from neupol_cli.io.volumetric import Grid, Volume, by_spacing


def test_the_plane_holds_most_atoms() -> None:
    ring = [[np.cos(a), np.sin(a), 0.3] for a in np.arange(6) * np.pi / 3]
    atoms = Atoms("C6H2", [[1.4 * x, 1.4 * y, z] for x, y, z in ring] + [[0, 0, 2.0], [0, 2, 2.5]])
    flat, across = plot.planes(atoms)
    assert np.abs(flat.seen(atoms.positions)[:6, 2]).max() < 1e-9
    assert abs(flat.normal @ across.normal) < 1e-12
    for symbols, positions in {"H": [[0, 0, 0]], "CO": [[0, 0, 0], [0.3, 0.4, 1.0]]}.items():
        for plane in plot.planes(Atoms(symbols, positions)):
            assert np.isfinite(plane.points()).all()
            np.testing.assert_allclose(plane.seen(np.array(positions))[:, 2], 0, rtol=0, atol=1e-9)


def test_the_grid_error_is_of_the_errors_size() -> None:
    """Against the known integral and dipole of Gaussians sharper than the grid."""
    generator = np.random.default_rng(1)
    charges = np.array([6.0, 1.0, 1.0])
    true, told = [], []
    for _ in range(20):
        atoms = Atoms("OH2", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
        grid = by_spacing(atoms, 0.4, 3.6)
        grid = Grid(grid.origin + 0.4 * generator.random(3), grid.step, grid.shape)
        values = np.zeros(grid.size)
        for charge, position in zip(charges, atoms.positions, strict=True):
            squared = ((grid.points() - position) ** 2).sum(axis=1)
            values += charge * (15 / np.pi) ** 1.5 * np.exp(-15 * squared)
        volume = Volume(atoms, grid, values.reshape(grid.shape))
        error, moment_error = measures.grid_errors(volume, charges)
        moment = measures.dipole(volume, charges, 8.0 / volume.electrons)  # zero if exact
        true.append((abs(volume.electrons - 8.0), np.linalg.norm(moment)))
        told.append((error, moment_error))
    ratio = np.mean(told, axis=0) / np.mean(true, axis=0)
    assert (ratio > 0.5).all() and (ratio < 20).all()
