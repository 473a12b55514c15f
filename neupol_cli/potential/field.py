"""The potential of a density and its nuclei, on its grid and anywhere else.

A density is its free atoms' and a difference. The free atoms' potentials are known at any distance
and hold all that is sharp, nuclei included; the difference is smooth, and its potential is made on
the grid (convolution.py), interpolated within it, and summed up over its charges outside.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial.distance import cdist

from neupol_cli.charges.pieces import Deformation
from neupol_cli.errors import InputError
from neupol_cli.io.volumetric import Grid
from neupol_cli.potential.convolution import COULOMB, potential
from neupol_cli.potential.neutral_atoms import Superposition

EDGE = 8  # points around the grid, with which splines are as good at its faces as within
ORDER = 5  # of the splines
NEAR = 1e-3  # Angstrom, between the grid's box and the cell
CHARGED = 0.5  # e; less is what a density is off by
PAIRS = 4_000_000  # of points and charges that are summed up at once


class Field:
    """The electrostatic potential, positive for a positive test charge.

    Of a molecule it vanishes far away, of a crystal its mean is zero, of a slab its values far away
    on both sides are opposite.

    Args:
        deformation: a density less its free atoms'.

    Raises:
        InputError: the density is periodic along one direction only, its grid is not its cell, or
            it is a charged slab.
    """

    def __init__(self, deformation: Deformation) -> None:
        self.grid, self.periodic = deformation.grid, np.asarray(deformation.atoms.pbc)
        self.charges = -deformation.values * self.grid.element  # (n1, n2, n3) e
        self._check(np.asarray(deformation.atoms.cell.array))
        self.free = Superposition(deformation.atoms, deformation.free)
        self.rest = potential(self.charges, self.grid, self.periodic, EDGE)  # V
        self.offset = 0.0
        if self.periodic.all():
            self.offset = self.free.integral / (self.grid.size * self.grid.element)
        self._splines: np.ndarray | None = None

    def _check(self, cell: np.ndarray) -> None:
        apart = np.abs(self.grid.box - cell)[self.periodic]
        if apart.size and apart.max() > NEAR:
            raise InputError("the grid does not fill the cell along its periodic directions")
        if self.periodic.sum() == 2 and abs(self.charges.sum()) > CHARGED:
            raise InputError("the potential of a slab with a charge has no limit")

    def on_grid(self) -> np.ndarray:
        """(n1, n2, n3) V."""
        inside = tuple(slice(None) if along else slice(EDGE, -EDGE) for along in self.periodic)
        return np.asarray(self.rest[inside] + self.free.on_grid(self.grid) - self.offset)

    def at(self, points: np.ndarray) -> np.ndarray:
        """(P,) V at points (P, 3) Angstrom.

        Raises:
            InputError: a point beside a slab's grid.
        """
        places = (points - self.grid.origin) @ np.linalg.inv(self.grid.step)  # in steps
        last = np.array(self.grid.shape) - 1
        inside = (((places >= 0) & (places <= last)) | self.periodic).all(axis=1)
        values = np.empty(len(points))
        values[inside] = self._interpolated(places[inside])
        if not inside.all():
            values[~inside] = self._summed(points[~inside])
        return np.asarray(values + self.free.at(points) - self.offset)

    def _interpolated(self, places: np.ndarray) -> np.ndarray:
        """V (P,) of the difference at places (P, 3) in steps of the grid."""
        if self._splines is None:
            width = [(EDGE, EDGE) if along else (0, 0) for along in self.periodic]
            self._splines = spline_filter(np.pad(self.rest, width, "wrap"), ORDER)
        wrapped = np.where(self.periodic, places % np.array(self.grid.shape), places)
        answer = map_coordinates(self._splines, wrapped.T + EDGE, order=ORDER, prefilter=False)
        return np.asarray(answer)

    def _summed(self, points: np.ndarray) -> np.ndarray:
        """V (P,) of the difference at points (P, 3) outside of the grid."""
        if self.periodic.any():
            x, y, z = points[0]
            raise InputError(
                f"{x:g},{y:g},{z:g} lies beside the slab's grid; give the cell more vacuum"
            )
        values = np.zeros(len(points))
        for start in range(0, self.grid.size, PAIRS // len(points) + 1):
            stop = min(start + PAIRS // len(points) + 1, self.grid.size)
            charges = self.charges.ravel()[start:stop]
            values += _direct(self.grid, start, charges, points)
        return values


def _direct(grid: Grid, start: int, charges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """V (P,) of some charges (N,) of a grid, from its point ``start`` on."""
    places = grid.points(start, start + len(charges))
    # On a face of the grid itself a voxel is as far as a sphere of its volume is, on average.
    nearest = 2 / 3 * (3 * grid.element / (4 * np.pi)) ** (1 / 3)
    return np.asarray(COULOMB * (charges / np.maximum(cdist(points, places), nearest)).sum(axis=1))
