"""What a model's training data were like: kept in its checkpoint, looked at for every structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from string import digits

from ase import Atoms

from neupol_cli.domain.bonds import Bonds, Range
from neupol_cli.io.charges import electrons, multiplicity, total_charge
from neupol_cli.models.base import FactsRecord


@dataclass(frozen=True)
class Facts:
    """What was there, over all training structures.

    Attributes:
        structures: how many.
        atoms, heavy: fewest and most of a structure, and of those that are not hydrogen.
        parts: the most pieces, not bonded to each other, of a structure.
        charges, multiplicities: those that were stated; 0 and nothing where none was.
        odd: whether a structure had an odd number of electrons.
        molecules, periodic: whether there were any.
        surroundings: of atoms, such as ``C4(C4 H1 H1 H1)``.
        bonds: ``C4-H1`` -> shortest and longest, Angstrom.
        contacts: ``C..H`` -> nearest of two that are not bonded, Angstrom.
        ranges: target -> lowest and highest; of an extensive one, divided by the number of atoms.
        fine: whether unseen structures of the same kind have, but for one in a hundred, no other
            surroundings; where the data are too few for that, neighbours count by element alone.
    """

    structures: int
    atoms: list[int]
    heavy: list[int]
    parts: int
    charges: list[int]
    multiplicities: list[int]
    odd: bool
    molecules: bool
    periodic: bool
    surroundings: frozenset[str]
    bonds: dict[str, Range]
    contacts: dict[str, float]
    ranges: dict[str, Range]
    fine: bool = False

    def knows(self, surroundings: str) -> bool:
        """Whether an atom of a training structure had these, such as ``C4(C4 H1 H1 H1)``."""
        if self.fine:
            return surroundings in self.surroundings
        return _coarse(surroundings) in self.coarse

    @cached_property
    def coarse(self) -> frozenset[str]:
        """The surroundings with neighbours by element alone, such as ``C4(C H H H)``."""
        return frozenset(map(_coarse, self.surroundings))

    def record(self) -> FactsRecord:
        """As plain values of JSON, lengths to the thousandth of an Angstrom."""
        return {
            "structures": self.structures,
            "atoms": self.atoms,
            "heavy": self.heavy,
            "parts": self.parts,
            "charges": self.charges,
            "multiplicities": self.multiplicities,
            "odd": self.odd,
            "molecules": self.molecules,
            "periodic": self.periodic,
            "surroundings": sorted(self.surroundings),
            "bonds": {key: [round(x, 3) for x in ends] for key, ends in self.bonds.items()},
            "contacts": {key: round(x, 3) for key, x in self.contacts.items()},
            "ranges": self.ranges,
            "fine": self.fine,
        }

    @classmethod
    def read(cls, record: FactsRecord) -> Facts:
        """The inverse of :meth:`record`."""
        known = {key: value for key, value in record.items() if key != "surroundings"}
        return cls(**known, surroundings=frozenset(record["surroundings"]))  # type: ignore[arg-type]


def _coarse(surroundings: str) -> str:
    """``C4(C4 H1 H1 H1)`` -> ``C4(C H H H)``."""
    atom, _, neighbours = surroundings.partition("(")
    elements = (name.rstrip(digits) for name in neighbours.rstrip(")").split())
    return f"{atom}({' '.join(sorted(elements))})"


def facts_of(structures: Iterable[Atoms], ranges: Mapping[str, Range]) -> Facts:
    """What is to be kept of training structures.

    Args:
        structures: at least one.
        ranges: of the targets, see :class:`Facts`.
    """
    tally = Tally()
    for atoms in structures:
        tally.add(atoms)
    return tally.facts(dict(ranges))


class Tally:
    """Counts structures, one after the other."""

    def __init__(self) -> None:
        self.structures, self.parts = 0, 0
        self.atoms: set[int] = set()
        self.heavy: set[int] = set()
        self.charges: set[int] = set()
        self.multiplicities: set[int] = set()
        self.odd: set[bool] = set()
        self.periodic: set[bool] = set()
        self.surroundings: set[str] = set()
        self.bonds: dict[str, Range] = {}
        self.contacts: dict[str, float] = {}

    def add(self, atoms: Atoms) -> None:
        """One more structure."""
        charge, spin = total_charge(atoms) or 0, multiplicity(atoms)
        self.structures += 1
        self.atoms.add(len(atoms))
        self.heavy.add(int((atoms.numbers > 1).sum()))
        self.charges.add(charge)
        self.multiplicities.update(() if spin is None else (spin,))
        self.odd.add(bool(electrons(atoms, charge) % 2))
        self.periodic.add(bool(atoms.pbc.any()))
        self._add(Bonds.of(atoms))

    def _add(self, bonds: Bonds) -> None:
        self.parts = max(self.parts, len(bonds.pieces))
        self.surroundings.update(bonds.surroundings())
        for name, (low, high) in bonds.bonds().items():
            shortest, longest = self.bonds.get(name, (low, high))
            self.bonds[name] = [min(low, shortest), max(high, longest)]
        for name, low in bonds.contacts().items():
            self.contacts[name] = min(low, self.contacts.get(name, low))

    def facts(self, ranges: dict[str, Range]) -> Facts:
        """What has been counted."""
        return Facts(
            structures=self.structures,
            atoms=[min(self.atoms), max(self.atoms)],
            heavy=[min(self.heavy), max(self.heavy)],
            parts=self.parts,
            charges=sorted(self.charges),
            multiplicities=sorted(self.multiplicities),
            odd=True in self.odd,
            molecules=False in self.periodic,
            periodic=True in self.periodic,
            surroundings=frozenset(self.surroundings),
            bonds=dict(sorted(self.bonds.items())),
            contacts=dict(sorted(self.contacts.items())),
            ranges=ranges,
        )
