"""Structures through one or several trained models, with units, in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.io.hdf5 import Target

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.property import PropertyModel

    Named = tuple[str, Atoms]  # what to call a structure, and it

CHUNK = 256  # structures that are predicted, and answered, together


@dataclass(frozen=True)
class Prediction:
    """What the models say of one structure.

    ``values`` and ``spread`` are by property name; a spread (the sample standard deviation) is
    there where several models answered. ``forces`` (n, 3) and ``stress`` (3, 3) where asked for.
    """

    label: str
    atoms: Atoms
    values: dict[str, Target]
    spread: dict[str, float] = field(default_factory=dict)
    forces: Target | None = None
    stress: Target | None = None

    def record(self) -> dict[str, Any]:
        """The prediction as one JSON object."""
        properties: dict[str, dict[str, Any]] = {
            name: {"value": target.values.tolist(), "unit": target.unit}
            for name, target in self.values.items()
        }
        for name, spread in self.spread.items():
            properties[name]["spread"] = spread
        result: dict[str, Any] = {
            "structure": self.label,
            "formula": self.atoms.get_chemical_formula(),
            "atoms": len(self.atoms),
            "properties": properties,
        }
        for name, target in (("forces", self.forces), ("stress", self.stress)):
            if target is not None:
                result[name] = {"value": target.values.tolist(), "unit": target.unit}
        return result

    def targets(self) -> dict[str, Target]:
        """Everything by name, for files that keep units."""
        found = dict(self.values)
        for name, spread in self.spread.items():
            found[f"{name}_spread"] = Target(np.asarray(spread), self.values[name].unit)
        if self.forces is not None:
            found["forces"] = self.forces
        if self.stress is not None:
            found["stress"] = self.stress
        return found


class Committee:
    """One or several property models that answer together."""

    def __init__(self, models: Sequence[PropertyModel], names: Sequence[str]) -> None:
        self.models = models
        self.names = names
        self.units = self._units()

    def _units(self) -> dict[str, str]:
        """The unit of each property; models that name different ones cannot be averaged."""
        units: dict[str, str] = {}
        for model, name in zip(self.models, self.names, strict=True):
            for target, unit in model.targets.items():
                if units.setdefault(target, unit) != unit:
                    raise InputError(f"{name}: {target} is in {unit}, elsewhere in {units[target]}")
        return units

    @property
    def energy(self) -> str:
        """The target of all models whose gradient is a force.

        Raises:
            InputError: a model has none, or they have different ones.
        """
        found = {model.energy for model in self.models}
        if len(found) > 1:
            raise InputError(f"the models' energies differ: {', '.join(sorted(found))}")
        return str(found.pop())

    def refusal(self, label: str, atoms: Atoms, stress: bool = False) -> InputError | None:
        """Why these models cannot answer for a structure, if they cannot."""
        if stress and not atoms.pbc.all():
            return InputError(
                f"{label}: a stress needs a structure that is periodic in 3 directions"
            )
        for model in self.models:
            try:
                model.check([atoms], [label])
            except InputError as error:
                return error
        return None

    def predict(self, named: Sequence[Named], forces: bool, stress: bool) -> list[Prediction]:
        """A prediction for each of some structures, at least one.

        Raises:
            InputError: an element that a model never saw; forces of models without an energy.
            TemporaryError: a single structure does not fit in memory.
        """
        structures = [atoms for _, atoms in named]
        answers = [model.predict(structures, forces, stress) for model in self.models]
        starts = np.cumsum([0, *(len(atoms) for atoms in structures)])
        unit = self.units[self.energy] if forces or stress else ""
        means, spreads = self._combined(answers)
        result = []
        for k, (label, atoms) in enumerate(named):
            values = {n: Target(np.asarray(mean[k]), self.units[n]) for n, mean in means.items()}
            spread = {n: float(each[k]) for n, each in spreads.items()}
            found = Prediction(label, atoms, values, spread)
            if forces:
                rows = [answer["forces"][starts[k] : starts[k + 1]] for answer in answers]
                found = _with(found, "forces", np.mean(rows, 0), f"{unit}/Angstrom", "atom")
            if stress:
                tensors = [answer["stress"][k] for answer in answers]
                found = _with(
                    found, "stress", np.mean(tensors, 0), f"{unit}/Angstrom^3", "structure"
                )
            result.append(found)
        return result

    def _combined(
        self, answers: Sequence[dict[str, np.ndarray]]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Means of each property, (N,), and the spread of those that several models answered."""
        means, spreads = {}, {}
        for name in self.units:
            said = [answer[name] for answer in answers if name in answer]
            means[name] = np.mean(said, axis=0)
            if len(said) > 1:
                spread = np.std(said, axis=0, ddof=1)
                # Of a vector, the length of its components' spreads: the same in every frame.
                spreads[name] = spread if spread.ndim == 1 else np.linalg.norm(spread, axis=1)
        return means, spreads


def _with(found: Prediction, name: str, values: np.ndarray, unit: str, per: str) -> Prediction:
    from dataclasses import replace

    return replace(found, **{name: Target(values, unit, per)})  # type: ignore[arg-type]


def chunks(named: Iterable[Named], size: int = CHUNK) -> Iterator[list[Named]]:
    """Labelled structures, at most ``size`` at a time."""
    rest = iter(named)
    while some := list(islice(rest, size)):
        yield some
