"""Fields as a page holds them: closed at the faces of a cell, no finer than needed, short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.volumetric import Grid

MOST = 1_000_000  # points of all fields of a page together: 4.5 MB where they are nothing but noise
UNSEEN = 0.01  # of the lowest level of a surface; between there and zero nothing is told apart
# A float32 has 23 bits of mantissa; a thousandth is finer than a grid, and the rest packs badly.
KEPT = 10


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the points of a page's fields are.

    Attributes:
        origin: (3,) of the first point, Angstrom.
        edges: (3, 3) rows: from the first to the last point along each axis, Angstrom.
        shape: points along each axis.
        repeats: (3,) whether the last point is the first one again, a cell further.
    """

    origin: np.ndarray
    edges: np.ndarray
    shape: tuple[int, int, int]
    repeats: np.ndarray

    @classmethod
    def of(cls, grid: Grid, atoms: Atoms, fields: int) -> Frame:
        """Of a grid, with fewer points where ``fields`` fields would be more than a page holds."""
        repeats = atoms.pbc & (np.abs(grid.box - np.asarray(atoms.cell.array)) < 1e-3).all(axis=1)
        last = np.maximum(np.array(grid.shape) - ~repeats, 1)  # steps to the last point
        finer = max(1.0, (fields * float((last + 1).prod()) / MOST) ** (1 / 3))
        n1, n2, n3 = (max(2, int(steps / finer) + 1) for steps in last)
        return cls(grid.origin, grid.step * last[:, None], (n1, n2, n3), repeats)

    def field(self, values: np.ndarray) -> np.ndarray:
        """A grid's values (n1, n2, n3) at the frame's points."""
        whole = np.pad(values, [(0, int(again)) for again in self.repeats], mode="wrap")
        if whole.shape == self.shape:
            return whole
        from scipy.ndimage import zoom

        factors = np.array(self.shape) / whole.shape
        return np.asarray(zoom(whole, factors, order=1, mode="nearest", grid_mode=False))

    def above(self, values: np.ndarray, level: float) -> np.ndarray:
        """(P, 3) Angstrom: the grid's points at which values are beyond a level of either sign."""
        indices = np.argwhere(np.abs(values) >= level)
        steps = np.maximum(np.array(values.shape) - ~self.repeats, 1)
        return np.asarray(self.origin + indices @ (self.edges / steps[:, None]))

    def matrix(self) -> np.ndarray:
        """(4, 4) takes the unit cube around zero to where the points are."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.edges.T
        matrix[:3, 3] = self.origin + 0.5 * self.edges.sum(axis=0)
        return matrix

    def corners(self) -> np.ndarray:
        """(8, 3) of the box that the points fill, Angstrom."""
        unit = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        return np.asarray(self.origin + unit @ self.edges)


def shortened(values: np.ndarray, lowest: float) -> np.ndarray:
    """Values to a thousandth of themselves, as float32; zero where they are far below ``lowest``.

    Zeros and short mantissas are what makes a page small.
    """
    single = np.where(np.abs(values) < UNSEEN * lowest, 0.0, values).astype("<f4")
    dropped = np.uint32(23 - KEPT)
    bits = single.view("<u4") + (np.uint32(1) << (dropped - np.uint32(1)))
    return np.asarray((bits >> dropped << dropped).view("<f4"))
