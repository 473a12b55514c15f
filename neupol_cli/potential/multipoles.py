"""Charge, dipole and quadrupole of a density and its nuclei.

Free atoms are neutral and round: they have no part in any of these, which are sums over the rest of
the density. The quadrupole is Buckingham's, Theta = 1/2 sum q (3 r r - r^2 1), without trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neupol_cli.charges.pieces import Deformation, blocks, points_of
from neupol_cli.io.units import DEBYE

COMPONENTS = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


@dataclass(frozen=True, eq=False)
class Multipoles:
    """Of a molecule.

    Attributes:
        origin: (3,) Angstrom, the centre of nuclear charge.
        charge: e.
        dipole: (3,) D.
        quadrupole: (3, 3) D Angstrom, without trace.
    """

    origin: np.ndarray
    charge: float
    dipole: np.ndarray
    quadrupole: np.ndarray

    def components(self) -> Mapping[str, float]:
        """The quadrupole's by their names."""
        return {name: float(self.quadrupole[index]) for name, index in COMPONENTS.items()}

    def as_json(self) -> dict[str, object]:
        """All of them, with their units."""
        return {
            "origin_Angstrom": self.origin.tolist(),
            "charge_e": self.charge,
            "dipole_D": self.dipole.tolist(),
            "quadrupole_D_Angstrom": dict(self.components()),
        }


def multipoles(deformation: Deformation) -> Multipoles:
    """Of a density less its free atoms', about the centre of nuclear charge."""
    atoms, grid = deformation.atoms, deformation.grid
    origin = atoms.numbers @ atoms.positions / atoms.numbers.sum()
    charge, first, second = 0.0, np.zeros(3), np.zeros((3, 3))
    for block in blocks(grid):
        charges = -deformation.values[block].ravel() * grid.element  # (P,) e
        points = points_of(grid, block) - origin
        charge += float(charges.sum())
        first += charges @ points
        second += points.T @ (charges[:, None] * points)
    quadrupole = 0.5 * (3 * second - np.trace(second) * np.eye(3))
    return Multipoles(origin, charge, first / DEBYE, quadrupole / DEBYE)
