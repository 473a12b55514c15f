"""A density, its gradient and its electrons' own potential at any points, without its nuclei.

As in field.py the free atoms hold all that is sharp, and are known at any distance; the difference
is interpolated between the points of its grid. An SCF's first Fock matrix is made of these.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import correlate1d, map_coordinates, spline_filter

from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.errors import InputError
from neupol_cli.potential.convolution import COULOMB, potential
from neupol_cli.potential.neutral_atoms import screening

BEYOND = 8  # points around the grid where the difference still has a potential
ORDER = 3  # of the splines
DERIVATIVE = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12  # by five points, in steps
NEAREST = 1e-6  # Angstrom


class Electrons:
    """The electrons of a molecule.

    Args:
        deformation: their density less its free atoms'.

    Raises:
        InputError: it is periodic.
    """

    def __init__(self, deformation: Deformation) -> None:
        if deformation.atoms.pbc.any():
            raise InputError("the electrons' own potential is known of molecules only")
        self.places, self.free = deformation.atoms.positions, deformation.free
        self.grid, values = deformation.grid, deformation.values
        slopes = [correlate1d(values, DERIVATIVE, axis, mode="constant") for axis in range(3)]
        # Each padded with zeros as far as the last, the potential, goes.
        fields = [np.pad(field, BEYOND) for field in (values, *slopes)]
        charges = -values * self.grid.element
        fields.append(potential(charges, self.grid, np.zeros(3, dtype=bool), BEYOND))
        self._splines = [spline_filter(field, ORDER) for field in fields]

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Density and potential.

        Args:
            points: (P, 3) Angstrom.

        Returns:
            (4, P) the density, e/Angstrom^3, and its gradient, e/Angstrom^4; (P,) V, negative.
            Far outside of the grid only the free atoms count.
        """
        inverse = np.linalg.inv(self.grid.step)
        places = (points - self.grid.origin) @ inverse + BEYOND  # in steps
        density, *slopes, volts = (self._interpolated(spline, places) for spline in self._splines)
        found = np.stack([density, *(inverse @ np.stack(slopes))])  # (4, P)
        for place, atom in zip(self.places, self.free, strict=True):
            apart = points - place
            distances = np.maximum(np.linalg.norm(apart, axis=1), NEAREST)
            volts -= COULOMB * np.interp(distances, *screening(atom)) / distances
            near = np.flatnonzero(distances < atom.radius)
            found[:, near] += _of_atom(atom, apart[near], distances[near])
        return found, volts

    def _interpolated(self, spline: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(P,) at places (P, 3) in steps; zero outside."""
        return np.asarray(map_coordinates(spline, places.T, order=ORDER, prefilter=False))


def _of_atom(atom: FreeAtom, apart: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Density and gradient (4, P) of a free atom, from displacements (P, 3) and their lengths."""
    density = atom.density(distances)
    along = density * np.interp(distances, atom.radii, _slopes(atom)) / distances
    return np.concatenate([density[None], along * apart.T])


@cache
def _slopes(atom: FreeAtom) -> np.ndarray:
    """Derivative of the logarithm of the density at the atom's radii, 1/Angstrom."""
    return np.gradient(atom.logarithms, atom.radii)
