"""Bonds and surroundings of a structure's atoms, from distances alone.

Two atoms are bonded that are nearer than 1.22 times the sum of their covalent radii (Cordero et
al., Dalton Trans. 2008, 2832, as ASE keeps them). A broken bond is thus no bond: it shows as atoms
with too few neighbours, or as a structure in two parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from neupol_cli.models.nn.neighbours import cell_list

STRETCHED = 1.22  # times the sum of radii: the longest bond
REACH = 3.0  # Angstrom: contacts between atoms that are not bonded are looked at up to here
DENSE = 64  # atoms up to which all pairs are quicker than a search
ELEMENTS, COUNTS = 128, 32  # more than there are elements, and neighbours that are told apart

Range = list[float]  # lowest and highest


@dataclass(frozen=True)
class Bonds:
    """Pairs of a structure's atoms up to `REACH`, or their bond, in both directions.

    Attributes:
        numbers: (n,) atomic numbers.
        first, second: (p,) the pairs' atoms, sorted by ``first``.
        lengths: (p,) Angstrom.
        bonded: (p,).
    """

    numbers: np.ndarray
    first: np.ndarray
    second: np.ndarray
    lengths: np.ndarray
    bonded: np.ndarray

    @classmethod
    def of(cls, atoms: Atoms) -> Bonds:
        """Those of a structure, periodic images included."""
        radii = covalent_radii[atoms.numbers]
        reach = max(REACH, 2 * STRETCHED * float(radii.max(initial=0.0)))
        first, second, lengths = _pairs(atoms, reach)
        bonded = lengths < STRETCHED * (radii[first] + radii[second])
        chosen = bonded | (lengths < REACH)
        return cls(atoms.numbers, first[chosen], second[chosen], lengths[chosen], bonded[chosen])

    @cached_property
    def coordination(self) -> np.ndarray:
        """(n,) how many atoms each is bonded to."""
        return np.bincount(self.first[self.bonded], minlength=len(self.numbers))

    @cached_property
    def types(self) -> list[str]:
        """(n,) element and coordination, such as ``C4``."""
        pairs = zip(self.numbers.tolist(), self.coordination.tolist(), strict=True)
        return [f"{chemical_symbols[number]}{count}" for number, count in pairs]

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """(n,) the atoms that each is bonded to."""
        ends = [0, *np.cumsum(self.coordination).tolist()]
        second = self.second[self.bonded].tolist()
        return [second[start:end] for start, end in pairwise(ends)]

    def surroundings(self) -> list[str]:
        """(n,) each atom's type and those of its neighbours, such as ``O2(C3 H1)``."""
        types = self.types
        return [
            f"{types[atom]}({' '.join(sorted(types[k] for k in near))})"
            for atom, near in enumerate(self.neighbours)
        ]

    def bonds(self) -> dict[str, Range]:
        """``C4-H1``, a carbon of four neighbours and a hydrogen of one -> shortest and longest."""
        once = self.bonded & (self.first <= self.second)
        types = (self.numbers * COUNTS + np.minimum(self.coordination, COUNTS - 1)).astype(np.int64)
        ends = np.sort((types[self.first[once]], types[self.second[once]]), axis=0)
        codes = ends[0] * (COUNTS * ELEMENTS) + ends[1]
        return {_bond(code): extent for code, extent in _extents(codes, self.lengths[once])}

    def contacts(self) -> dict[str, float]:
        """The nearest of two elements without a bond: ``C.H`` where they share a neighbour, so that
        an angle holds them apart, and ``C..H`` elsewhere."""
        once = ~self.bonded & (self.first <= self.second)
        first, second = self.first[once], self.second[once]
        ends = np.sort((self.numbers[first], self.numbers[second]), axis=0).astype(np.int64)
        codes = (ends[0] * ELEMENTS + ends[1]) * 2 + self._joined(first, second)
        return {_contact(code): low for code, (low, _) in _extents(codes, self.lengths[once])}

    def _joined(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(c,) whether both are bonded to one and the same atom."""
        if len(self.numbers) <= DENSE:
            bonded = np.zeros((len(self.numbers),) * 2, np.float32)
            bonded[self.first[self.bonded], self.second[self.bonded]] = 1
            return (bonded @ bonded)[first, second] > 0
        near = [set(members) for members in self.neighbours]
        return np.array(
            [not near[i].isdisjoint(near[j]) for i, j in zip(first, second, strict=True)]
        )

    @cached_property
    def pieces(self) -> list[list[int]]:
        """The atoms of each piece that bonds hold together, ascending."""
        unseen, pieces = dict.fromkeys(reversed(range(len(self.numbers)))), []
        while unseen:
            piece = [unseen.popitem()[0]]
            for atom in piece:  # which grows meanwhile
                for near in self.neighbours[atom]:
                    if near in unseen:
                        del unseen[near]
                        piece.append(near)
            pieces.append(sorted(piece))
        return pieces


def _pairs(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordered pairs within ``reach`` and their distances, sorted by the first."""
    points = atoms.positions
    if len(atoms) <= DENSE and not atoms.pbc.any():
        lengths = np.sqrt(np.square(points[:, None] - points).sum(2))
        first, second = np.nonzero(lengths < reach)
        apart = first != second
        first, second = first[apart], second[apart]
        return first, second, lengths[first, second]
    cell = np.asarray(atoms.cell)
    first, second, shifts = cell_list(points, cell, atoms.pbc, reach)
    vectors = points[second] - points[first] + shifts @ cell
    return first, second, np.linalg.norm(vectors, axis=1)


def _extents(codes: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, Range]]:
    """Every code that occurs, with its shortest and longest length."""
    order = np.lexsort((lengths, codes))
    codes, lengths = codes[order], lengths[order]
    if not len(codes):
        return
    changes = np.flatnonzero(codes[1:] != codes[:-1])
    first, last = np.append(0, changes + 1), np.append(changes, len(codes) - 1)
    low, high = lengths[first].tolist(), lengths[last].tolist()
    for code, *extent in zip(codes[first].tolist(), low, high, strict=True):
        yield code, extent


@cache
def _bond(code: int) -> str:
    return "-".join(
        f"{chemical_symbols[end // COUNTS]}{end % COUNTS}"
        for end in divmod(code, COUNTS * ELEMENTS)
    )


@cache
def _contact(code: int) -> str:
    pair, joined = divmod(code, 2)
    dots = "." if joined else ".."
    return dots.join(chemical_symbols[number] for number in divmod(pair, ELEMENTS))
