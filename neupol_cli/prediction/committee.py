"""Structures through one or several trained models, with units, in pieces that fit in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, starmap
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.bundled import knowing
from neupol_cli.domain import doubts
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import InputError
from neupol_cli.io import said
from neupol_cli.io.hdf5 import Target
from neupol_cli.models.property import UNCERTAINTY
from neupol_cli.models.workers import in_order
from neupol_cli.prediction.columns import Answers, Columns, combined
from neupol_cli.prediction.ensemble import CONFORMER_SPREAD, Ensemble
from neupol_cli.targets import FORCES, target

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.property import PropertyModel

    Named = tuple[str, Atoms]  # what to call a structure, and it

# Structures that are predicted, and answered, together: on a GPU, and on a thread of a CPU, where
# so many atoms are enough, too.
CHUNK, CHUNK_OF_THREAD, ATOMS = 256, 64, 1536

Doubts = tuple[str, ...] | None


@dataclass(frozen=True)
class Prediction:
    """What the models say of one structure.

    ``values``, ``spread`` and ``uncertainty`` are by property name; a spread (the sample standard
    deviation) is there where several models answered, an uncertainty (half of an interval that
    holds nine truths in ten) where all that answered are calibrated. ``forces`` (n, 3) and
    ``stress`` (3, 3) where asked for; ``force_spread`` (n,) and ``force_uncertainty`` (n,), the
    radius of the ball around each force that holds nine true ones in ten, as for properties.
    ``doubts`` are reasons not to trust the answer; None where there are none and no model knows its
    domain. ``ensemble`` where it is the average of a molecule's conformers; ``atoms`` are then the
    one of the lowest energy.
    """

    label: str
    atoms: Atoms
    values: dict[str, Target]
    spread: dict[str, float] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    forces: Target | None = None
    force_spread: Target | None = None
    force_uncertainty: Target | None = None
    stress: Target | None = None
    doubts: Doubts = None
    ensemble: Ensemble | None = None

    def numbers(self) -> dict[str, float]:
        """The properties that are numbers."""
        return {name: float(t.values) for name, t in self.values.items() if not t.values.ndim}

    def record(self) -> dict[str, object]:
        """The prediction as one JSON object, with what the structure's file says of it."""
        properties = {name: _record(target) for name, target in self.values.items()}
        for name, spread in self.spread.items():
            properties[name]["spread"] = spread
        for name, half in self.uncertainty.items():
            properties[name] |= _interval(name, self.values[name].values, half)
        for name, spread in self._conformer_spreads().items():
            properties[name]["conformer_spread"] = spread
        derivatives = {name: _record(target) for name, target in self._derivatives().items()}
        for name, of_atoms in self._of_forces().items():
            derivatives[FORCES][name] = of_atoms.values.tolist()
        return {
            "structure": self.label,
            "formula": self.atoms.get_chemical_formula(),
            "atoms": len(self.atoms),
            "properties": properties,
            **derivatives,
            **({} if self.ensemble is None else {"conformers": self.ensemble.record()}),
            **({} if self.doubts is None else {"doubts": list(self.doubts)}),
            **said.item(said.of(self.atoms)),
        }

    def targets(self) -> dict[str, Target]:
        """Everything by name, for files that keep units."""
        targets = dict(self.values)
        for name, spread in self.spread.items():
            targets[f"{name}_spread"] = Target(np.asarray(spread), self.values[name].unit)
        for name, half in self.uncertainty.items():
            targets[name + UNCERTAINTY] = Target(np.asarray(half), self.values[name].unit)
        for name, spread in self._conformer_spreads().items():
            targets[name + CONFORMER_SPREAD] = Target(np.asarray(spread), self.values[name].unit)
        targets |= self._derivatives()
        targets |= {f"{FORCES}_{name}": of_atoms for name, of_atoms in self._of_forces().items()}
        if self.ensemble is not None:
            targets["conformers"] = Target(np.asarray(self.ensemble.count), "")
        if self.doubts is not None:
            targets["doubts"] = Target(np.asarray(len(self.doubts)), "")
        return targets

    def _conformer_spreads(self) -> dict[str, float]:
        return {} if self.ensemble is None else self.ensemble.spread

    def _derivatives(self) -> dict[str, Target]:
        """Forces and stress, where they were asked for."""
        derivatives = {FORCES: self.forces, "stress": self.stress}
        return {name: target for name, target in derivatives.items() if target is not None}

    def _of_forces(self) -> dict[str, Target]:
        """What is known of each force's error, as it is called in JSON and, behind it, in files."""
        known = {"spread": self.force_spread, "uncertainty": self.force_uncertainty}
        return {name: target for name, target in known.items() if target is not None}


def _record(target: Target) -> dict[str, object]:
    """A number, vector or tensor and its unit, for JSON."""
    return {"value": target.values.tolist(), "unit": target.unit}


def _interval(name: str, value: np.ndarray, half: float) -> dict[str, object]:
    """Ends of an interval, or the radius of a vector's ball, for JSON.

    Of what cannot be negative it begins at zero: the truth is not below.
    """
    if value.ndim:
        return {"uncertainty": half}
    low, high = float(value) - half, float(value) + half
    begins = target(name).positive and low < 0 < high
    return {"interval": [0.0 if begins else low, high]}


class Committee:
    """One or several property models that answer together."""

    def __init__(self, models: Sequence[PropertyModel], names: Sequence[str]) -> None:
        self.models = models
        self.names = names
        self.units = self._units()
        domains = [Domain.of(model.header) for model in models]
        self.domains = [domain for domain in domains if domain is not None]

    def _units(self) -> dict[str, str]:
        """The unit of each property; models that name different ones cannot be averaged."""
        units: dict[str, str] = {}
        for model, name in zip(self.models, self.names, strict=True):
            for label, unit in model.targets.items():
                if units.setdefault(label, unit) != unit:
                    raise InputError(f"{name}: {label} is in {unit}, elsewhere in {units[label]}")
        return units

    @property
    def energy(self) -> str:
        """The target of all models whose gradient is a force.

        Raises:
            InputError: a model has none, or they have different ones.
        """
        energies = {model.energy for model in self.models}
        if len(energies) > 1:
            raise InputError(f"the models' energies differ: {', '.join(sorted(energies))}")
        return str(energies.pop())

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
                unknown = set(atoms.numbers.tolist()) - set(model.species)
                others = knowing(atoms.numbers.tolist()) if unknown else []
                return InputError(f"{error}; -m {others[0]} knows all of it") if others else error
        return self._uncharged(label, atoms)

    def _uncharged(self, label: str, atoms: Atoms) -> InputError | None:
        """A charge or multiplicity that a model could only ignore."""
        for domain in self.domains:
            try:
                domain.check(atoms, label)
            except InputError as error:
                return error
        return None

    def doubted(self, prediction: Prediction) -> Prediction:
        """The same with what its source left open, and the doubts of all models that know their
        domain, each once."""
        forces = None if prediction.forces is None else prediction.forces.values
        named = prediction.label, prediction.atoms
        return replace(prediction, doubts=self._doubts(named, prediction.numbers(), forces))

    def _doubts(self, named: Named, numbers: dict[str, float], forces: np.ndarray | None) -> Doubts:
        """Reasons not to trust a structure's numbers, and the forces (n, 3) where there are any."""
        label, atoms = named
        reasons = list(atoms.info.get(said.DOUBTS, ()))
        if not self.domains:
            return tuple(reasons) or None
        bonds = Bonds.of(atoms)
        reasons += [reason for d in self.domains for reason in d.doubts(atoms, bonds, numbers)]
        if forces is not None:
            reasons += doubts.of_forces(forces, self._force_unit)
        if parts := doubts.distant_parts(atoms, bonds):
            alone = self.predict([(label, part) for part in parts], False, False)
            reasons += doubts.of_parts(numbers, [part.numbers() for part in alone], self.units)
        return tuple(dict.fromkeys(reasons))

    def predicted(
        self, named: Iterable[Named], forces: bool, stress: bool, doubted: bool
    ) -> Iterator[Prediction]:
        """Predictions of any number of structures in their order, some at a time on each core.

        Args:
            named: are read as they are needed, a little ahead.
            forces, stress: whether they are wanted.
            doubted: whether doubts are.

        Raises:
            InputError, TemporaryError, DivergedError: as :meth:`predict`; what ``named`` raises.
        """
        begun: deque[list[Named]] = deque()

        def chunks_begun() -> Iterator[list[Named]]:
            for chunk in self._chunks(named):
                begun.append(chunk)
                yield chunk

        def answered(chunk: list[Named]) -> tuple[Answers, list[Doubts]]:
            answers = self._answers(chunk, forces, stress)
            return answers, self._all_doubts(chunk, answers) if doubted else [None] * len(chunk)

        # Columns are what comes back from a copy of this process: records of each structure would
        # weigh ten times as much.
        for answers, reasons in in_order(answered, chunks_begun(), apart=True):
            predictions = self._predictions(begun.popleft(), answers)
            for prediction, of_one in zip(predictions, reasons, strict=True):
                yield prediction if of_one is None else replace(prediction, doubts=of_one)

    def _chunks(self, named: Iterable[Named]) -> Iterator[list[Named]]:
        on_cpu = all(model.device.type == "cpu" for model in self.models)
        return chunks(named, CHUNK_OF_THREAD, ATOMS) if on_cpu else chunks(named, CHUNK)

    def predict(self, named: Sequence[Named], forces: bool, stress: bool) -> list[Prediction]:
        """A prediction for each of some structures, at least one.

        Raises:
            InputError: an element that a model never saw; forces of models without an energy.
            TemporaryError: a single structure does not fit in memory.
            DivergedError: an answer is not finite.
        """
        return self._predictions(named, self._answers(named, forces, stress))

    @property
    def _force_unit(self) -> str:
        return f"{self.units[self.energy]}/Angstrom"

    def _answers(self, named: Sequence[Named], forces: bool, stress: bool) -> Answers:
        labels, structures = map(list, zip(*named, strict=True))
        answers = [
            model.predict(structures, forces, stress, labels=labels) for model in self.models
        ]
        return Answers(
            combined(answers, self.units),
            combined(answers, [FORCES]),
            np.mean([answer["stress"] for answer in answers], 0) if stress else None,
        )

    def _all_doubts(self, named: Sequence[Named], answers: Answers) -> list[Doubts]:
        """Of each of some structures."""
        scalars = {n: v.tolist() for n, v in answers.properties.means.items() if v.ndim == 1}
        forces = answers.forces.means.get(FORCES)
        return [
            self._doubts(
                one,
                {name: column[k] for name, column in scalars.items()},
                None if forces is None else forces[rows],
            )
            for k, (one, rows) in enumerate(zip(named, _rows(named), strict=True))
        ]

    def _predictions(self, named: Sequence[Named], answers: Answers) -> list[Prediction]:
        """The columns' rows, as records."""
        columns, predictions = answers.properties, []
        for k, ((label, atoms), rows) in enumerate(zip(named, _rows(named), strict=True)):
            values = {n: Target(np.asarray(v[k]), self.units[n]) for n, v in columns.means.items()}
            spread = {n: float(column[k]) for n, column in columns.spreads.items()}
            half = {n: float(column[k]) for n, column in columns.uncertainties.items()}
            prediction = Prediction(label, atoms, values, spread, half)
            if answers.forces.means:
                prediction = _with_forces(prediction, answers.forces, rows, self._force_unit)
            if answers.stress is not None:
                tensor = Target(answers.stress[k], f"{self.units[self.energy]}/Angstrom^3")
                prediction = replace(prediction, stress=tensor)
            predictions.append(prediction)
        return predictions


def _with_forces(prediction: Prediction, columns: Columns, rows: slice, unit: str) -> Prediction:
    """The same with forces on its atoms, which are some rows of the columns."""

    def of_atoms(table: dict[str, np.ndarray]) -> Target | None:
        return Target(table[FORCES][rows], unit, "atom") if FORCES in table else None

    return replace(
        prediction,
        forces=of_atoms(columns.means),
        force_spread=of_atoms(columns.spreads),
        force_uncertainty=of_atoms(columns.uncertainties),
    )


def _rows(named: Sequence[Named]) -> list[slice]:
    """Of each structure, the rows of its atoms among those of all."""
    return list(starmap(slice, pairwise(accumulate((len(a) for _, a in named), initial=0))))


def chunks(named: Iterable[Named], size: int, atoms: float = math.inf) -> Iterator[list[Named]]:
    """Labelled structures, ``size`` at a time, or fewer as soon as they have so many ``atoms``."""
    chunk: list[Named] = []
    held = 0
    for label, structure in named:
        chunk.append((label, structure))
        held += len(structure)
        if len(chunk) == size or held >= atoms:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
