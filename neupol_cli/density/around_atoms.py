"""A density's error around each atom: over all that is nearer to it, or an image, than to others.

eps_i = integral of |rho - rho'| over the region of atom i, in electrons
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from ase import Atoms

from neupol_cli.io.volumetric import Grid

if TYPE_CHECKING:
    from neupol_cli.models.density.model import DensityModel, EncodedAtoms

POINTS = 100_000  # whose nearest atoms are looked for at a time


def by_nearest_atom(values: np.ndarray, grid: Grid, atoms: Atoms) -> np.ndarray:
    """Integrals over what is nearest to each atom.

    Args:
        values: (P,) at the grid's points, the third index fastest, an Angstrom^3.
        grid: Angstrom.
        atoms: A atoms.

    Returns:
        (A,) sums times the voxel's volume; every point counts once.
    """
    from scipy.spatial import cKDTree

    from neupol_cli.charges.pieces import Surroundings, corners

    # No point of a cell is farther from all images of an atom than half of its edges together.
    edges = np.linalg.norm(atoms.cell.array[atoms.pbc], axis=1)
    around = Surroundings(atoms, float(edges.sum() / 2), corners(grid))
    tree, sums = cKDTree(around.centers), np.zeros(len(atoms))
    for start in range(0, grid.size, POINTS):
        stop = min(start + POINTS, grid.size)
        _, nearest = tree.query(grid.points(start, stop))
        sums += np.bincount(around.owners[nearest], values[start:stop], len(atoms))
    return sums * grid.element


@dataclass(frozen=True)
class AroundAtoms:
    """How far off a predicted density may be around each of A atoms.

    Attributes:
        bounds: (A,) electrons, which nine errors in ten are below.
        worst: what messages call the atom of the largest one.
    """

    bounds: list[float]
    worst: str

    @classmethod
    def of(
        cls, model: DensityModel[EncodedAtoms], features: EncodedAtoms, atoms: Atoms
    ) -> Self | None:
        """What a model says of a structure; None if nobody has told it.

        Raises:
            DivergedError: it is not finite.
        """
        bounds = model.atom_uncertainty(features)
        if bounds is None:
            return None
        # Of atoms that are alike the first one, however their numbers are rounded.
        worst = int((bounds > 0.999 * bounds.max()).int().argmax())
        return cls(bounds.tolist(), f"atom {worst + 1} ({atoms.symbols[worst]})")
