"""What is bonded to what in a structure, and which of its rings are flat."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

# A bond is at most so many times the sum of the covalent radii (Cordero et al. 2008, in ASE).
STRETCH = 1.25
LARGEST_RING = 8
MOST_BONDS = 4  # an atom with more of them, in a metal or a salt, is in no ring
FLAT = 0.1  # Angstrom; root mean square distance of a flat ring's atoms from its plane


@dataclass(frozen=True)
class Ring:
    """A flat ring: its atoms in order, and the unit normal (3,) of its plane."""

    members: tuple[int, ...]
    normal: np.ndarray


@dataclass(frozen=True)
class Skeleton:
    """Bonds of a structure, each in both directions, and its flat rings, smallest first.

    Attributes:
        owners, partners: (M,) indices of atoms, owners ascending.
        vectors: (M, 3) from owner to partner (or to its periodic image), Angstrom.
        rings: see :class:`Ring`.
    """

    owners: np.ndarray
    partners: np.ndarray
    vectors: np.ndarray
    rings: list[Ring]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(M,) Angstrom."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1))

    def plane_of(self, atom: int) -> Ring | None:
        """The smallest flat ring that an atom is in."""
        return next((ring for ring in self.rings if atom in ring.members), None)

    def in_ring(self, owner: int, partner: int) -> bool:
        """Whether a bond is part of a flat ring."""
        return any(owner in ring.members and partner in ring.members for ring in self.rings)


def skeleton(atoms: Atoms) -> Skeleton:
    """The bonds (distances within 1.25 times the sum of covalent radii) and flat rings."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = STRETCH * covalent_radii[atoms.numbers]
    atom_index, partners, vectors = neighbor_list("ijD", atoms, list(radii))
    order = np.lexsort((partners, atom_index))
    bonds = Skeleton(atom_index[order], partners[order], vectors[order], [])
    flat = {}
    for walk in _rings(bonds, len(atoms)):
        members = tuple(int(bonds.owners[bond]) for bond in walk)
        ring = _flat(members, bonds.vectors[walk])
        if ring is not None:
            flat[frozenset(members)] = ring
    rings = sorted(flat.values(), key=lambda ring: len(ring.members))
    return Skeleton(bonds.owners, bonds.partners, bonds.vectors, rings)


def _rings(bonds: Skeleton, count: int) -> list[list[int]]:
    """For every angle the shortest closed walk through it, as a list of bonds."""
    leaving: list[list[int]] = [[] for _ in range(count)]
    for bond, owner in enumerate(bonds.owners):
        leaving[owner].append(bond)
    chained = [own if len(own) <= MOST_BONDS else [] for own in leaving]
    rings = []
    for own in chained:
        for first, last in combinations(own, 2):
            walk = _shortest(bonds, chained, first, last)
            if walk:
                rings.append([first, *walk])
    return rings


def _shortest(bonds: Skeleton, leaving: list[list[int]], first: int, last: int) -> list[int]:
    """The bonds of the shortest walk back after bond ``first`` that comes in over ``last``."""
    home, start, end = (int(k) for k in (bonds.owners[first], *bonds.partners[[first, last]]))
    predecessor: dict[int, int] = {home: -1, start: -1}
    queue = deque([(start, 1)])
    while queue:
        atom, length = queue.popleft()
        if atom == end:
            return [*_traced(bonds, predecessor, end), _reverse(bonds, last)]
        if length == LARGEST_RING - 1:
            return []
        for bond in leaving[atom]:
            partner = int(bonds.partners[bond])
            if partner not in predecessor:
                predecessor[partner] = bond
                queue.append((partner, length + 1))
    return []


def _reverse(bonds: Skeleton, bond: int) -> int:
    """The same bond in the other direction."""
    first, end = np.searchsorted(bonds.owners, bonds.partners[bond] + np.arange(2))
    gap = np.linalg.norm(bonds.vectors[first:end] + bonds.vectors[bond], axis=1)
    back = bonds.partners[first:end] == bonds.owners[bond]
    return int(first + np.where(back, gap, np.inf).argmin())


def _traced(bonds: Skeleton, predecessor: dict[int, int], end: int) -> list[int]:
    walk, atom = [], end
    while predecessor[atom] >= 0:
        walk.append(predecessor[atom])
        atom = int(bonds.owners[predecessor[atom]])
    return walk[::-1]


def _flat(members: tuple[int, ...], steps: np.ndarray) -> Ring | None:
    """The ring, if its walk closes (it need not in a crystal) and its atoms lie in one plane."""
    if np.linalg.norm(steps.sum(0)) > 1e-3:
        return None
    points = np.cumsum(steps, axis=0)
    centred = points - points.mean(0)
    _, spread, axes = np.linalg.svd(centred)
    if spread[-1] / np.sqrt(len(members)) > FLAT:
        return None
    return Ring(members, axes[-1])
