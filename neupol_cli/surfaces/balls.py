"""Structures as balls and sticks, and from where they are best seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.domain.bonds import Bonds

if TYPE_CHECKING:
    from ase import Atoms

TILT = (20.0, 12.0)  # degrees, about the horizontal and the vertical axis
BALL = 0.45  # of the covalent radius
LOOSE = 1.1  # times as far, for their radii, as an atom's nearest: no bond of a crystal
ON_FACE = 0.01  # of an edge: an atom on a cell's face is seen on the opposite face as well


def axes_of(atoms: Atoms) -> np.ndarray:
    """(3, 3) rows: right, up and towards the eye; the atoms spread most along the first two."""
    centred = atoms.positions - atoms.positions.mean(0)
    rows = np.linalg.svd(np.vstack((centred, 1e-6 * np.eye(3))))[2]
    # A direction has no sign of its own: each looks to where its largest component is positive.
    largest = np.abs(rows).argmax(1)
    rows = rows * np.sign(rows[range(3), largest])[:, None]
    rows[2] = np.cross(rows[0], rows[1])
    return np.asarray(_tilt() @ rows)


def axes_of_cell(cell: np.ndarray) -> np.ndarray:
    """(3, 3) rows: right, nearly along a; up, nearly along c; and towards the eye."""
    right = cell[0] / np.linalg.norm(cell[0])
    up = cell[2] - (cell[2] @ right) * right
    up /= np.linalg.norm(up)
    return np.asarray(_tilt() @ np.array([right, up, np.cross(right, up)]))


def _tilt() -> np.ndarray:
    a, b = np.radians(TILT)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return np.asarray(about_x @ about_y)


def radii_of(atoms: Atoms) -> np.ndarray:
    """(A,) radii of the balls that atoms are drawn as, Angstrom."""
    from ase.data import covalent_radii

    return np.asarray(BALL * covalent_radii[atoms.numbers])


@dataclass(frozen=True, eq=False)
class Balls:
    """The balls of a structure, and halves of the bonds between them.

    Attributes:
        atoms: (B) what is seen: the structure's atoms, then images of those on faces of its cell.
        owners: (B,) which atom of the structure each of them is.
        halves: (H, 2, 3) from a ball to the middle of a bond, Angstrom.
        ends: (H,) the ball at the end of each.
    """

    atoms: Atoms
    owners: np.ndarray
    halves: np.ndarray
    ends: np.ndarray


def balls(atoms: Atoms, origin: np.ndarray, box: np.ndarray, repeats: np.ndarray) -> Balls:
    """Those of a structure, atoms inside of a box along the directions that repeat.

    Args:
        atoms: the structure.
        origin: (3,) of the box, Angstrom.
        box: (3, 3) rows are its edges, Angstrom.
        repeats: (3,) bool; the box is the cell along these.
    """
    from ase import Atoms as Structure

    places, owners = _in_box(atoms.positions, origin, box, repeats)
    seen = Structure(atoms.numbers[owners], places)
    first, second = _joined(Bonds.of(seen), salt=bool(repeats.any()))
    middles = 0.5 * (places[first] + places[second])
    return Balls(seen, owners, np.stack([places[first], middles], axis=1), first)


def _joined(bonds: Bonds, salt: bool) -> tuple[np.ndarray, np.ndarray]:
    """The atoms (M,), (M,) at the ends of bonds; in a crystal not of those between two of its
    cations, which are large, that anions hold together."""
    first, second, lengths = (x[bonds.bonded] for x in (bonds.first, bonds.second, bonds.lengths))
    if not salt:
        return first, second
    from ase.data import covalent_radii

    radii = covalent_radii[bonds.numbers]
    stretch = lengths / (radii[first] + radii[second])
    tightest = np.full(len(radii), np.inf)
    np.minimum.at(tightest, first, stretch)
    drawn = stretch < LOOSE * np.minimum(tightest[first], tightest[second])
    return first[drawn], second[drawn]


def _in_box(
    positions: np.ndarray, origin: np.ndarray, box: np.ndarray, repeats: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (B, 3) of atoms in a box, on both of its faces if on one, and whose they are (B,)."""
    fractions = (positions - origin) @ np.linalg.inv(box)
    fractions = np.where(repeats, (fractions + ON_FACE) % 1.0 - ON_FACE, fractions)
    owners = np.arange(len(positions))
    for axis in np.flatnonzero(repeats):
        on_face = fractions[:, axis] < ON_FACE
        images = fractions[on_face] + np.eye(3)[axis]
        fractions, owners = np.concatenate((fractions, images)), np.append(owners, owners[on_face])
    return origin + fractions @ box, owners
