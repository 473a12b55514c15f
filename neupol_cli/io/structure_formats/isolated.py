"""``--no-pbc``: one whole molecule in a wide box, taken as a molecule."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

WIDE = 5.0  # Angstrom between a molecule and its images: beyond what any bundled model looks


def make_molecule(atoms: Atoms, label: str) -> None:
    """Take the box away.

    Raises:
        InputError: an image is near: the molecule is cut by the box's faces, or the box narrow.
    """
    periodic = np.asarray(atoms.cell.array)[atoms.pbc]  # (k,3)
    nearest = _nearest_image(atoms.positions, periodic)
    if nearest < WIDE:
        raise InputError(
            f"{label}: --no-pbc needs a whole molecule in a wide box; here an atom is "
            f"{nearest:.2f} Angstrom from another one's image (at least {WIDE:g} are needed)"
        )
    atoms.pbc = False
    atoms.cell[:] = 0.0


def _nearest_image(positions: np.ndarray, periodic: np.ndarray) -> float:
    """The least distance of an atom and an image, WIDE at most."""
    if not len(periodic):
        return WIDE
    from scipy.spatial import cKDTree

    # As many images as the atoms' extent may need, along each vector.
    span = np.linalg.norm(np.ptp(positions, axis=0)) + WIDE
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
    ranges = [range(-min(3, int(span / height) + 1), min(3, int(span / height) + 1) + 1)
              for height in heights]  # fmt: skip
    tree = cKDTree(positions)
    nearest = WIDE
    for image in product(*ranges):
        if any(image):
            shifted = positions + np.array(image) @ periodic
            nearest = min(nearest, tree.query(shifted, distance_upper_bound=WIDE)[0].min())
    return float(nearest)
