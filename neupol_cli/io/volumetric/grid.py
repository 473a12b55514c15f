"""Regular grids in space, and what is stored on them.

A grid is an origin, three step vectors and three counts; it need not be orthogonal. Points run in
C order: the third index is the fastest. Lengths are Angstrom, densities electrons/Angstrom^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.volumetric.augmentation import Augmentation

Shape = tuple[int, int, int]
WIDEST = 1000.0  # Angstrom; no margin is wider
DENSITY = "e/Angstrom^3"
ATOM_UNCERTAINTY = (
    "density_uncertainty"  # a note (A,) in electrons; a predicted density may have it
)


@dataclass(frozen=True, eq=False)
class Grid:
    """``r[i, j, k] = origin + i step[0] + j step[1] + k step[2]``.

    origin (3,) and step (3, 3) in Angstrom, rows are voxel vectors; shape: three counts >= 1.
    Raises InputError for numbers that are not finite, counts below one and flat voxels.
    """

    origin: np.ndarray
    step: np.ndarray
    shape: Shape

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", np.array(self.origin, dtype=np.float64).reshape(3))
        object.__setattr__(self, "step", np.array(self.step, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"a grid needs three counts of at least 1, not {self.shape}")
        if not (np.isfinite(self.origin).all() and np.isfinite(self.step).all()):
            raise InputError("the grid's origin or step is not finite")
        if self.element <= 1e-9 * float(np.prod(np.linalg.norm(self.step, axis=1))):
            raise InputError("the grid's step vectors are zero or lie in one plane")

    @property
    def size(self) -> int:
        """Number of points."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def element(self) -> float:
        """Volume of one voxel, Angstrom^3."""
        return abs(float(np.linalg.det(self.step)))

    @property
    def spacing(self) -> np.ndarray:
        """Lengths of the step vectors, (3,) Angstrom."""
        return np.linalg.norm(self.step, axis=1)

    @property
    def box(self) -> np.ndarray:
        """The box that the voxels fill, rows are its edges, (3, 3) Angstrom."""
        return self.step * np.array(self.shape)[:, None]

    def points(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Positions of the points start..stop-1 in C order, (stop - start, 3) Angstrom."""
        flat = np.arange(start, self.size if stop is None else stop)
        index = np.stack(np.unravel_index(flat, self.shape), axis=-1)  # (P, 3)
        return self.origin + index @ self.step

    def same_as(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Same counts, and no corner further than `tolerance` Angstrom from its counterpart."""
        if self.shape != other.shape:
            return False
        corners = (
            np.array(np.meshgrid(*[(0, n) for n in self.shape], indexing="ij")).reshape(3, -1).T
        )
        apart = (self.origin - other.origin) + corners @ (self.step - other.step)
        return bool(np.abs(apart).max() <= tolerance)


@dataclass(frozen=True, eq=False)
class Volume:
    """A density on a grid, with the atoms that it belongs to.

    values (n1, n2, n3) electrons/Angstrom^3; spin the same shape (up minus down) or None.
    periodic atoms (``atoms.pbc``) mean that the grid repeats with ``atoms.cell``.
    unit: that of the values, where they are no density (a descriptor); files of densities convert.
    notes: what the file says beside the numbers (``electrons``, ``energy``, ``dipole``, ``title``),
    and how far off a predicted density may be around each atom (``ATOM_UNCERTAINTY``).
    augmentation: the occupancies that a CHGCAR has, or is to have, behind its grids.
    """

    atoms: Atoms
    grid: Grid
    values: np.ndarray
    spin: np.ndarray | None = None
    notes: dict = field(default_factory=dict)
    unit: str = DENSITY
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        for array in (self.values, self.spin):
            if array is not None and array.shape != self.grid.shape:
                raise InputError(f"values of shape {array.shape} on a grid of {self.grid.shape}")

    @property
    def electrons(self) -> float:
        """The sum over the grid times the voxel volume: a rectangle rule, no more exact than
        the step is fine (see `density.measures.grid_errors`)."""
        return float(self.values.sum(dtype=np.float64)) * self.grid.element

    @property
    def unpaired(self) -> float | None:
        """The same sum of the spin density: 2S where up is the majority; None without spin."""
        if self.spin is None:
            return None
        return float(self.spin.sum(dtype=np.float64)) * self.grid.element


def by_spacing(atoms: Atoms, spacing: float, margin: float) -> Grid:
    """A grid whose points are at most `spacing` Angstrom apart.

    A periodic direction is divided evenly, without its repeated end point; any other holds the
    atoms' extent and `margin` Angstrom on both sides, and the cell of a slab or a wire.
    """
    if not (np.isfinite(spacing) and spacing > 0):
        raise UsageError(f"--spacing must be a positive length in Angstrom, not {spacing}")
    origin, box = _box(atoms, margin)
    counts = [max(1, ceil(length / spacing - 1e-9)) for length in np.linalg.norm(box, axis=1)]
    return _divide(origin, box, (counts[0], counts[1], counts[2]))


def by_counts(atoms: Atoms, counts: Sequence[int], margin: float) -> Grid:
    """A grid of n1 x n2 x n3 points over the cell, or over the atoms' extent and `margin`."""
    if len(counts) != 3 or min(counts) < 1:
        raise UsageError(f"--grid takes three counts of at least 1, such as 60,60,60, not {counts}")
    origin, box = _box(atoms, margin)
    return _divide(origin, box, (counts[0], counts[1], counts[2]))


def _divide(origin: np.ndarray, box: np.ndarray, shape: Shape) -> Grid:
    return Grid(origin, box / np.array(shape)[:, None], shape)


def _box(atoms: Atoms, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Origin (3,) and edges (3, 3) of the region that a density of `atoms` needs."""
    if not 0 <= margin <= WIDEST:
        raise UsageError(f"--margin must be a length of up to {WIDEST:g} Angstrom, not {margin}")
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    given = np.linalg.norm(cell, axis=1) > 0 if atoms.pbc.any() else np.zeros(3, dtype=bool)
    axes = np.where(given[:, None], cell, 0.0)
    axes = np.eye(3) if not given.any() else np.asarray(complete_cell(axes))
    inverse = np.linalg.inv(axes)
    fractional = atoms.positions @ inverse  # (N, 3)
    room = margin * np.linalg.norm(inverse, axis=0)  # (3,) of an axis, from face to face
    low, high = fractional.min(axis=0) - room, fractional.max(axis=0) + room
    # A slab or a wire with a full cell keeps it, its vacuum was chosen by whoever made it, as far
    # as the cell holds its density: one on the cell's face gets a larger box.
    low, high = (
        np.where(given, np.minimum(low, 0.0), low),
        np.where(given, np.maximum(high, 1.0), high),
    )
    low, high = np.where(atoms.pbc, 0.0, low), np.where(atoms.pbc, 1.0, high)
    return low @ axes, axes * (high - low)[:, None]
