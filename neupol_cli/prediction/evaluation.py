"""How far models are from the labels of a dataset: `neupol evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, structures
from neupol_cli.io.hdf5 import Dataset, Target
from neupol_cli.models.property import ENERGIES
from neupol_cli.prediction.committee import Committee, Prediction, chunks
from neupol_cli.progress import Tick, counted

if TYPE_CHECKING:
    from ase import Atoms

FORCES = "forces"
PARTS = ("train", "valid", "test")
REST = "rest"  # what no part of the split names


@dataclass(frozen=True)
class Compared:
    """One label of one part of a dataset, beside what the models say.

    Attributes:
        file: the dataset's.
        part: train, valid, test, rest; empty where the file has no split.
        label, unit: what is compared.
        said, true: (n,) predictions and labels; three a force.
        spread: (n,) the committee's standard deviation; empty for one model and for forces.
        structures: (n,) the number in the file of the structure of each.
    """

    file: str
    part: str
    label: str
    unit: str
    said: np.ndarray
    true: np.ndarray
    spread: np.ndarray
    structures: np.ndarray

    def record(self) -> dict[str, Any]:
        """The errors as one JSON object, in the label's unit."""
        error = self.said - self.true
        worst = int(np.abs(error).argmax())
        found: dict[str, Any] = {"file": self.file}
        found |= {"part": self.part} if self.part else {}
        found |= {"label": self.label, "unit": self.unit, "values": len(error)}
        found["mean_absolute"] = float(np.abs(error).mean())
        found["root_mean_square"] = float(np.sqrt(np.square(error).mean()))
        found["mean"] = float(error.mean())
        found["largest"] = float(error[worst])
        found["largest_at"] = int(self.structures[worst])
        return found | self._uncertainty(np.abs(error))

    def _uncertainty(self, error: np.ndarray) -> dict[str, Any]:
        """Whether a committee is far off where it disagrees: 1 always, 0 by chance."""
        from scipy.stats import spearmanr

        if not len(self.spread):
            return {}
        found: dict[str, Any] = {"mean_spread": float(self.spread.mean())}
        if len(error) > 2 and np.ptp(error) and np.ptp(self.spread):
            found["spearman_spread_error"] = float(spearmanr(self.spread, error).statistic)
        return found


def dataset_of(path: str | Path) -> Dataset:
    """Errors: InputError for anything but structures that `neupol data` wrote."""
    if str(path) == "-" or (Path(path).is_file() and not structures.is_dataset(Path(path))):
        raise InputError(
            f"{path}: labels need units: turn it into a dataset with `neupol data` first, "
            "such as neupol data xyz LABELLED.extxyz -o labelled.h5"
        )
    dataset = hdf5.read(path)
    if dataset.kind != "structures":
        raise InputError(f"{path}: holds {dataset.kind}; properties are labels of structures")
    return dataset


def parts_of(dataset: Dataset, path: str, split: str, part: str) -> dict[str, np.ndarray]:
    """The structures of each part, in the order of the file.

    Args:
        split: name of the split; empty for the only one.
        part: only this one; empty for all.

    Raises:
        UsageError: several splits, none named. InputError: a split or part that is not there.
    """
    if split and split not in dataset.splits:
        raise InputError(f"{path}: no partition '{split}'; there are: {_names(dataset.splits)}")
    if len(dataset.splits) > 1 and not split:
        raise UsageError(
            f"{path}: choose one of its partitions with --partition: {_names(dataset.splits)}"
        )
    split = split or next(iter(dataset.splits), "")
    parts = {name: np.sort(each) for name, each in dataset.splits.get(split, {}).items()}
    rest = np.setdiff1d(np.arange(dataset.size), np.concatenate([[], *parts.values()]))
    if len(rest):
        parts[REST if parts else ""] = rest
    parts = {name: parts[name] for name in sorted(parts, key=_place) if len(parts[name])}
    if part and part in dataset.splits:
        raise UsageError(f"{path}: {part} is a partition; name it with --partition {part}")
    if part and part not in parts:
        raise InputError(f"{path}: no split '{part}'; there are: {_names(parts)}")
    return {part: parts[part]} if part else parts


def _place(part: str) -> int:
    """Parts are told in the order of their use, others behind."""
    return PARTS.index(part) if part in PARTS else len(PARTS)


def labels_of(dataset: Dataset, committee: Committee, path: str) -> list[str]:
    """The labels that both have, forces last.

    Raises:
        InputError: there is none, or one is in another unit.
    """
    units = committee.units | _force_unit(committee)
    single = {n: t for n, t in dataset.targets.items() if _comparable(n, t)}
    common = [name for name in (*committee.units, FORCES) if name in units and name in single]
    if not common:
        raise InputError(
            f"{path}: nothing to compare: its labels are {_names(single)}, "
            f"the models' {_names(units)}"
        )
    for name in common:
        if single[name].unit != units[name]:
            raise InputError(
                f"{path}: {name} is in {single[name].unit}, the models' in {units[name]}"
            )
    return common


def _comparable(name: str, target: Target) -> bool:
    """Labels that are one number a structure, and forces."""
    return name == FORCES or (target.per == "structure" and target.values.ndim == 1)


def _force_unit(committee: Committee) -> dict[str, str]:
    """Forces can be had where all models have the same energy."""
    try:
        return {FORCES: f"{committee.units[committee.energy]}/Angstrom"}
    except InputError:
        return {}


def _names(found: Any) -> str:
    return ", ".join(name or "all" for name in found) or "none"


@dataclass(frozen=True)
class Some:
    """Some structures of a dataset: ``indices`` (n,) ascending, those of a ``part``."""

    file: str
    dataset: Dataset
    part: str
    indices: np.ndarray

    def values(self, label: str, found: Sequence[Prediction]) -> Compared:
        """A label that is one number a structure."""
        said = np.array([float(each.values[label].values) for each in found])
        spread = np.array([each.spread[label] for each in found if label in each.spread])
        target = self.dataset.targets[label]
        true = target.values[self.indices]
        return self._compared(label, target.unit, said, true, spread, self.indices)

    def per_atom(self, label: str, found: Sequence[Prediction]) -> Compared:
        """An energy shared out over each structure's atoms."""
        whole, counts = self.values(label, found), self.dataset.counts[self.indices]
        spread = whole.spread / counts if len(whole.spread) else whole.spread
        said, true = whole.said / counts, whole.true / counts
        return self._compared(f"{label}/atom", whole.unit, said, true, spread, self.indices)

    def forces(self, found: Sequence[Prediction]) -> Compared:
        """Components of the forces on all atoms."""
        target = self.dataset.targets[FORCES]
        said = [each.forces.values.ravel() for each in found if each.forces is not None]
        starts = self.dataset.offsets
        true = [target.values[starts[k] : starts[k + 1]].ravel() for k in self.indices]
        owners = np.repeat(self.indices, 3 * self.dataset.counts[self.indices])
        joined = np.concatenate(said), np.concatenate(true)
        return self._compared(FORCES, target.unit, *joined, np.zeros(0), owners)

    def _compared(self, label: str, unit: str, *arrays: np.ndarray) -> Compared:
        return Compared(self.file, self.part, label, unit, *arrays)

    def _named(self) -> Iterator[tuple[str, Atoms]]:
        for index in self.indices.tolist():
            yield self._name(index), self.dataset.atoms(index)

    def _name(self, index: int) -> str:
        return f"{self.file}#{index}"

    def answerable(self, committee: Committee, on_error: str) -> Some:
        """Those whose elements the models know; the others are reported, or stop everything."""
        kept = structures.accepted(self._named(), committee.refusal, on_error)
        places = {self._name(index): index for index in self.indices.tolist()}
        known = [places[name] for name, _ in kept]
        return replace(self, indices=np.array(known, dtype=np.int64))

    def predicted(self, committee: Committee, forces: bool, tick: Tick) -> Iterator[Prediction]:
        """A prediction a structure."""
        done = 0
        for named in chunks(self._named()):
            yield from committee.predict(named, forces, stress=False)
            done += len(named)
            tick(done)


def compare(
    committee: Committee, path: str, split: str, part: str, on_error: str
) -> Iterator[Compared]:
    """Every label that models and dataset have in common, a part of the dataset after the other.

    Errors: those of `dataset_of`, `labels_of` and `parts_of`; InputError for an element that a
    model never saw, unless ``on_error`` is ``skip``.
    """
    dataset = dataset_of(path)
    labels = labels_of(dataset, committee, path)
    single = [label for label in labels if label != FORCES]
    for name, indices in parts_of(dataset, path, split, part).items():
        some = Some(path, dataset, name, indices).answerable(committee, on_error)
        if not len(some.indices):
            continue
        with counted(f"predicting {name}", len(some.indices)) as tick:
            found = list(some.predicted(committee, FORCES in labels, tick))
        for label in single:
            yield some.values(label, found)
            if label in ENERGIES:
                yield some.per_atom(label, found)
        if FORCES in labels:
            yield some.forces(found)
