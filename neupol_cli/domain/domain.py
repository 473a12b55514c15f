"""A model's domain, as its checkpoint states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neupol_cli.domain import doubts
from neupol_cli.domain.facts import Facts
from neupol_cli.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.domain.bonds import Bonds
    from neupol_cli.models.base import Header


@dataclass(frozen=True)
class Domain:
    """What a model knows, and how far it may be off.

    Attributes:
        facts: of its training data.
    """

    facts: Facts

    @classmethod
    def of(cls, header: Header) -> Domain | None:
        """A checkpoint's; None where it states none, as published ones and older ones do.

        Raises:
            CheckpointError: it cannot be read.
        """
        record = header.get("domain")
        return None if record is None else cls(Facts.read(record))

    def check(self, atoms: Atoms, label: str) -> None:
        """Refuses what the model could only ignore.

        Raises:
            InputError: a charge or multiplicity that no training structure had.
        """
        for reason in doubts.of_charge(self.facts, atoms, label):
            raise InputError(f"{label}: {reason}")

    def doubts(self, atoms: Atoms, bonds: Bonds, values: Mapping[str, float]) -> list[str]:
        """Reasons not to trust these answers for this structure.

        Args:
            atoms: the structure.
            bonds: its own.
            values: target -> the answer, in the unit of the training data.
        """
        of_answer = doubts.of_answer(self.facts, atoms, values)
        return [*doubts.of_structure(self.facts, atoms, bonds), *of_answer]
