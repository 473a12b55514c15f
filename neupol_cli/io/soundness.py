"""Whether a structure can be one: finite places, real elements, a cell with room, no two atoms on
one spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

CLOSEST = 0.1  # Angstrom; two nuclei nearer than this are one by mistake
THINNEST = 0.3  # Angstrom; the least height of a cell, a fifth of any crystal's
FARTHEST = 1e6  # Angstrom
FEW = 64  # points; up to here all distances at once are faster than a tree


def check(atoms: Atoms, label: str, line: int = 0) -> None:
    """Refuse a structure that no model can answer for; cost is O(N).

    ``line`` is that of the first atom, where atoms stand on consecutive lines. InputError: no
    atoms, a coordinate that is not finite, no real element, a degenerate cell, two atoms on one
    spot (nearer than 0.1 Angstrom, periodic images included).
    """
    where = _Places(label, line)
    if len(atoms) == 0:
        raise InputError(f"{label}: has no atoms")
    check_places(atoms, label, line)
    unknown = (atoms.numbers < 1) | (atoms.numbers > 118)
    if unknown.any():
        index = int(unknown.argmax())
        raise InputError(
            f"{where(index)}: atom {index + 1} has atomic number {atoms.numbers[index]}"
        )
    pair = _close_pair(atoms.positions, _periodic(atoms))
    if pair is not None:
        first, second = sorted(pair)
        raise InputError(
            f"{where(second)}: atoms {first + 1} and {second + 1} are on one spot "
            f"(nearer than {CLOSEST} Angstrom, periodic images included)"
        )


def check_places(atoms: Atoms, label: str, line: int = 0) -> None:
    """Refuse a structure on its way that has flown apart, or whose cell has collapsed.

    Raises:
        InputError: a coordinate that is not finite, a degenerate cell.
    """
    bad = ~(np.abs(atoms.positions) < FARTHEST).all(axis=1)  # also true for NaN
    if bad.any():
        index = int(bad.argmax())
        where = _Places(label, line)
        raise InputError(f"{where(index)}: atom {index + 1} is not at a finite place")
    _check_cell(_periodic(atoms), label)


def _periodic(atoms: Atoms) -> np.ndarray:
    """(k, 3) the cell's vectors along directions that repeat."""
    return np.asarray(atoms.cell.array)[atoms.pbc]


class _Places:
    """``file:line`` of an atom where its line is known, else the label."""

    def __init__(self, label: str, line: int) -> None:
        self.label, self.line = label, line

    def __call__(self, index: int) -> str:
        return f"{self.label}:{self.line + index}" if self.line else self.label


def _check_cell(vectors: np.ndarray, label: str) -> None:
    """Refuse periodic vectors (k,3) that are not finite, dependent, or leave no room."""
    if not len(vectors):
        return
    if not (np.abs(vectors) < FARTHEST).all():
        raise InputError(f"{label}: the cell is not finite, or longer than {FARTHEST:g} Angstrom")
    heights = _heights(vectors)
    if not heights.min() >= THINNEST:
        raise InputError(
            f"{label}: the cell is degenerate: {heights.min():.3g} Angstrom high along a periodic "
            f"direction (at least {THINNEST} is needed)"
        )


def _heights(vectors: np.ndarray) -> np.ndarray:
    """(k,) distance between opposite faces along each of k periodic vectors (k,3); 0 if flat."""
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.min() == 0.0 or np.linalg.matrix_rank(vectors / lengths[:, None]) < len(vectors):
        return np.zeros(len(vectors))
    return np.asarray(1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0))


def _close_pair(positions: np.ndarray, periodic: np.ndarray) -> tuple[int, int] | None:
    """Indices of two atoms nearer than CLOSEST, if there are any."""
    points, atom_index = _with_images(positions, periodic)
    if len(points) <= FEW:
        squared = np.square(points[:, None] - points).sum(axis=-1)  # (P,P)
        np.fill_diagonal(squared, np.inf)
        row, column = divmod(int(squared.argmin()), len(points))
        close = squared[row, column] < CLOSEST**2
        return (int(atom_index[row]), int(atom_index[column])) if close else None
    # Two points in one small box are close for certain; afterwards no box is crowded, so that the
    # tree below stays linear even for 100,000 atoms in one place.
    boxes = np.floor(points / (CLOSEST / 2)).astype(np.int64)
    _, first, count = np.unique(boxes, axis=0, return_index=True, return_counts=True)
    crowded = np.flatnonzero(count > 1)
    if crowded.size:
        same = np.flatnonzero((boxes == boxes[first[crowded[0]]]).all(axis=1))
        return int(atom_index[same[0]]), int(atom_index[same[1]])
    from scipy.spatial import cKDTree

    distances, nearest = cKDTree(points).query(points, k=2, distance_upper_bound=CLOSEST)
    close = np.flatnonzero(np.isfinite(distances[:, 1]))
    if not close.size:
        return None
    return int(atom_index[close[0]]), int(atom_index[nearest[close[0], 1]])


def _with_images(positions: np.ndarray, periodic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms wrapped into the cell with images just outside its faces (P,3), and owners (P,)."""
    atom_index = np.arange(len(positions))
    if not len(periodic):
        return positions, atom_index
    inverse = np.linalg.pinv(periodic)  # (3,k)
    points = positions - np.floor(positions @ inverse) @ periodic
    margins = CLOSEST / _heights(periodic)  # (k,)
    # An atom next to a face has an image next to the opposite one; edges and corners follow,
    # because images made along one axis are there when the next axis comes.
    for axis, vector in enumerate(periodic):
        fraction = points @ inverse[:, axis]
        low, high = fraction < margins[axis], fraction > 1.0 - margins[axis]
        points = np.concatenate([points, points[low] + vector, points[high] - vector])
        atom_index = np.concatenate([atom_index, atom_index[low], atom_index[high]])
    return points, atom_index
