"""A trained model as what atoms move by: its forces, what it refuses, what it doubts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.calculator import all_changes

from neupol_cli import registry
from neupol_cli.calculator import NeupolCalculator
from neupol_cli.devices import dtype_named
from neupol_cli.errors import InputError
from neupol_cli.io.hdf5 import Target
from neupol_cli.prediction.committee import Committee, Prediction
from neupol_cli.targets import ENERGIES, FORCES

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    from neupol_cli.models.base import Header
    from neupol_cli.models.property import PropertyModel

UNTAUGHT = "the model has not learnt forces"
# A number in a doubt, and none that is a part of an atom's name such as C4.
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


def learnt_forces(header: Header) -> bool:
    """Whether a checkpoint says that its model was trained on forces: it states their error."""
    return FORCES in header.get("valid", {}) or FORCES in header.get("test", {})


@dataclass(frozen=True)
class Potential:
    """A model whose energy (eV) atoms move by.

    Attributes:
        model: in the type of number that is computed with.
        name: what it is called in messages and files.
        stress: whether cells move, too.
    """

    model: PropertyModel
    name: str
    stress: bool = False

    @classmethod
    def load(
        cls, source: str | None, device: torch.device, dtype: str, stress: bool = False
    ) -> Potential:
        """The model that a command line names.

        Args:
            source: what ``-m`` names; None is the first bundled model that has learnt forces.
            device: where it computes.
            dtype: what ``--dtype`` names.
            stress: whether cells will move.

        Raises:
            UsageError: no such type of number, no bundled model with forces.
            InputError: nothing has that name, or it answers no energy in eV.
        """
        kind = dtype_named(dtype)
        name = source or registry.bundled_for("has learnt forces", learnt_forces)
        potential = cls(registry.load_property(name, device, kind), name, stress)
        potential.calculator()  # refuses energies in other units
        return potential

    @cached_property
    def committee(self) -> Committee:
        """The model alone, as what refuses and doubts."""
        return Committee([self.model], [self.name])

    def calculator(self) -> NeupolCalculator:
        """A calculator for one structure; many may share the model."""
        return (_WithStress if self.stress else NeupolCalculator)(self.model)

    def refusal(self, label: str, atoms: Atoms) -> InputError | None:
        """Why the model cannot answer for a structure, if it cannot."""
        return self.committee.refusal(label, atoms, self.stress)

    def doubts(self, label: str, atoms: Atoms, of_values: bool = True) -> list[str]:
        """Reasons not to trust energy and forces of a structure that has this calculator.

        Args:
            label: what messages call it.
            atoms: the structure.
            of_values: whether ranges of what the model answers count, beside places and forces.
        """
        forces = atoms.get_forces(apply_constraint=False)
        results, units = atoms.calc.results, self.model.targets
        chosen = units if of_values else {}
        values = {name: Target(np.asarray(results[name]), unit) for name, unit in chosen.items()}
        unit = f"{units[self.model.energy]}/Angstrom"
        prediction = Prediction(label, atoms, values, forces=Target(forces, unit, "atom"))
        return list(self.committee.doubted(prediction).doubts or ())

    def untaught(self) -> list[str]:
        """The doubt that forces of a model deserve that was trained, and not on them.

        Of a published model, whose checkpoint states no errors, nobody can tell.
        """
        stated = {*self.model.header.get("valid", {}), *self.model.header.get("test", {})}
        return [UNTAUGHT] if stated & set(ENERGIES) and FORCES not in stated else []


class _WithStress(NeupolCalculator):
    """A stress with each answer, where one is needed at every step."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, [*properties, "stress"], system_changes)


class Watch:
    """Notices when a structure on its way leaves the model's domain.

    Attributes:
        first: the doubts that it began with.
    """

    def __init__(self, potential: Potential, label: str, first: Sequence[str]) -> None:
        self.first = tuple(first)
        self._doubts = partial(potential.doubts, label)

    @classmethod
    def begin(cls, potential: Potential, label: str, atoms: Atoms) -> Watch:
        """A watch over a structure that has a calculator, from where it is."""
        return cls(potential, label, [*potential.untaught(), *potential.doubts(label, atoms)])

    def left(self, atoms: Atoms) -> list[str]:
        """Reasons why the structure is no longer where the model knows its way.

        Ranges of energies are none: a minimum lies below all structures of a dynamics.
        """
        return self._new(self._doubts(atoms, of_values=False))

    def new(self, atoms: Atoms) -> list[str]:
        """All doubts that it did not begin with."""
        return self._new(self._doubts(atoms))

    def _new(self, reasons: Sequence[str]) -> list[str]:
        """Those of another kind: the same words, whatever the numbers, are the same doubt."""
        known = {kind(reason) for reason in self.first}
        return [reason for reason in reasons if kind(reason) not in known]


def kind(reason: str) -> str:
    """A doubt without its numbers, which differ from step to step."""
    return NUMBER.sub("#", reason)
