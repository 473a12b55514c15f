"""How a density varies around its atoms: gradients on grids, and the angular variation zeta."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.volumetric import Grid, Volume

BLOCK = 200_000  # points whose nearest atom is looked up at once


def gradient(volume: Volume) -> np.ndarray:
    """Gradient (n1, n2, n3, 3) of a density on its grid, e/Angstrom^4.

    Along periodic axes by Fourier series, which is exact for what the grid can hold; along others
    by fourth-order differences (second and first order next to the edges).
    """
    values = volume.values.astype(np.float64)
    along = []
    for axis, periodic in enumerate(volume.atoms.pbc):
        derivative = _fourier if periodic else _differences
        along.append(derivative(values, axis))
    # d/dx = sum over axes of (d index / d x) d/d index
    inverse = np.linalg.inv(volume.grid.step)  # (3, axis): d index / d x
    return np.stack(along, axis=-1) @ inverse.T


def _fourier(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative by the index along a periodic axis."""
    count = values.shape[axis]
    waves = 2j * np.pi * np.fft.rfftfreq(count)
    if count % 2 == 0:
        waves[-1] = 0.0  # the sine of the highest wave is not on the grid
    shape = [1, 1, 1]
    shape[axis] = len(waves)
    return np.fft.irfft(np.fft.rfft(values, axis=axis) * waves.reshape(shape), count, axis=axis)


def _differences(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative by the index along an axis that ends."""
    count = values.shape[axis]
    if count < 2:
        return np.zeros_like(values)
    derivative = np.gradient(values, axis=axis)
    if count >= 5:
        table, inner = np.moveaxis(values, axis, 0), np.moveaxis(derivative, axis, 0)
        inner[2:-2] = (8 * (table[3:-1] - table[1:-3]) - (table[4:] - table[:-4])) / 12
    return np.asarray(derivative)


def angular_variation(volume: Volume) -> float:
    """zeta = 1 - sum |grad rho . r^| / sum ||grad rho||, r^ from the nearest atom.

    Zero when the density depends on the distance from the nearest atom alone, towards one when it
    turns around it. Koker et al., arXiv 2312.05388, eq. 6; all points of the grid.
    Most of both sums comes from close to the nuclei, so a coarse grid changes it: water's valence
    density has 0.115, 0.110 and 0.166 with steps of 0.1, 0.2 and 0.4 Angstrom.

    Raises:
        InputError: a constant density.
    """
    slopes = gradient(volume).reshape(-1, 3)  # (P, 3)
    along = total = 0.0
    for start, directions in directions_from_atoms(volume.atoms, volume.grid):
        block = slopes[start : start + len(directions)]
        directed = np.abs(directions).max(axis=1) > 0  # a point on a nucleus has no direction
        along += float(np.abs((block * directions).sum(axis=1)).sum())
        total += float(np.linalg.norm(block[directed], axis=1).sum())
    if total == 0:
        raise InputError("the density is constant: it has no angular variation")
    return 1.0 - along / total


def directions_from_atoms(atoms: Atoms, grid: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """(first point, unit vectors (P, 3) from the nearest atom or image) of the grid in blocks."""
    for start, vectors in vectors_from_atoms(atoms, grid):
        distances = np.linalg.norm(vectors, axis=1)
        lengths = np.where(distances > 1e-9, distances, np.inf)
        yield start, vectors / lengths[:, None]


def vectors_from_atoms(atoms: Atoms, grid: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """(first point, vectors (P, 3) from the nearest atom or image, Angstrom) in blocks."""
    from scipy.spatial import cKDTree

    images = _images(atoms)
    tree = cKDTree(images)
    inverse = np.linalg.pinv(_periodic(atoms)) if atoms.pbc.any() else None
    for start in range(0, grid.size, BLOCK):
        points = grid.points(start, min(start + BLOCK, grid.size))
        if inverse is not None:  # bring them where the images are
            points = points - np.floor(points @ inverse) @ _periodic(atoms)
        yield start, points - images[tree.query(points)[1]]


def _periodic(atoms: Atoms) -> np.ndarray:
    """The lattice vectors (k, 3) of the periodic directions."""
    return np.asarray(atoms.cell.array)[atoms.pbc]


def _images(atoms: Atoms) -> np.ndarray:
    """Atoms and every image that may be nearest to a point of the cell, (G, 3)."""
    if not atoms.pbc.any():
        return np.asarray(atoms.positions)
    vectors = _periodic(atoms)  # (k, 3)
    inverse = np.linalg.pinv(vectors)
    # No point of the cell is further from the images of an atom than half the vectors' sum.
    margins = 0.5 * np.linalg.norm(vectors, axis=1).sum() * np.linalg.norm(inverse, axis=0)  # (k,)
    points = atoms.positions - np.floor(atoms.positions @ inverse) @ vectors
    for axis, margin in enumerate(margins):
        shifts = np.arange(-np.ceil(margin), np.ceil(margin) + 1)
        points = (points[None] + shifts[:, None, None] * vectors[axis]).reshape(-1, 3)
        fraction = points @ inverse[:, axis]
        points = points[(fraction >= -margin) & (fraction <= 1 + margin)]
    return np.asarray(points)
