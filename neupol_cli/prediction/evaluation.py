"""How far models are from the labels of a dataset: `neupol evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import provenance
from neupol_cli.datasets import splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, said, structures
from neupol_cli.io.hdf5 import Dataset, Target
from neupol_cli.prediction.committee import Committee, Prediction
from neupol_cli.progress import Tick, counted
from neupol_cli.targets import ENERGIES, FORCES
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms

REST = "rest"  # what no split of the partition names


@dataclass(frozen=True)
class Compared:
    """One label of one split of a dataset, beside what the models predict.

    Attributes:
        file: the dataset's.
        split: train, valid, test, rest; empty where the file has no partition.
        label, unit: what is compared.
        info_of: of a structure by its number, what is known of it besides.
        predicted, reference: (n,) predictions and labels; three a vector or force.
        spread: (n,) the committee's standard deviation, or (n / 3,) of vectors and forces; empty
            for one model.
        uncertainty: (n,) half of the 90 % interval, or (n / 3,) radii of vectors' and forces'
            balls; empty where there are none.
        structures: (n,) the number in the file of the structure of each.
    """

    file: str
    split: str
    label: str
    unit: str
    info_of: Callable[[int], said.Info]
    predicted: np.ndarray
    reference: np.ndarray
    spread: np.ndarray
    uncertainty: np.ndarray
    structures: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """(n,) predicted - reference."""
        return self.predicted - self.reference

    def record(self) -> dict[str, object]:
        """The errors as one JSON object, in the label's unit."""
        errors, split = self.errors, {"split": self.split} if self.split else {}
        worst = int(np.abs(errors).argmax())
        return {
            "file": self.file,
            **split,
            "label": self.label,
            "unit": self.unit,
            "values": len(errors),
            "mean_absolute": float(np.abs(errors).mean()),
            "root_mean_square": float(np.sqrt(np.square(errors).mean())),
            "mean": float(errors.mean()),
            "largest": float(errors[worst]),
            "largest_at": int(self.structures[worst]),
            **self._worst(int(self.structures[worst])),
            **self._spreads(),
            **self._intervals(),
        }

    def _worst(self, structure: int) -> dict[str, object]:
        """What is known of the structure that is farthest off."""
        info = self.info_of(structure)
        return {"largest_at_info": info} if info else {}

    def _distances(self, count: int) -> np.ndarray:
        """(count,) sizes of errors: of numbers, or lengths of as many vectors' errors."""
        return np.linalg.norm(self.errors.reshape(count, -1), axis=1)

    def _spreads(self) -> dict[str, float]:
        """How much a committee disagrees, and whether it is far off where it does."""
        if not len(self.spread):
            return {}
        errors = self._distances(len(self.spread))
        rank = _rank_correlation("spearman_spread_error", self.spread, errors)
        return {"mean_spread": float(self.spread.mean()), **rank}

    def _intervals(self) -> dict[str, float]:
        """How many truths the intervals hold, and whether they are wide where errors are large."""
        half = self.uncertainty
        if not len(half):
            return {}
        errors = self._distances(len(half))
        rank = _rank_correlation("spearman_uncertainty_error", half, errors)
        held = float((errors <= half).mean())
        return {"mean_uncertainty": float(half.mean()), "within_uncertainty": held, **rank}


def _joined(targets: Sequence[Target | None]) -> np.ndarray:
    """(A,) numbers of all structures' atoms; none where there are none."""
    return np.concatenate([np.zeros(0), *(t.values for t in targets if t is not None)])


def _rank_correlation(name: str, widths: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Spearman's: 1 always, 0 by chance; nothing where one of the two never changes."""
    from scipy.stats import spearmanr

    if len(errors) <= 2 or not np.ptp(errors) or not np.ptp(widths):
        return {}
    return {name: float(spearmanr(widths, errors).statistic)}


def dataset_of(path: str | Path) -> Dataset:
    """The dataset of a file.

    Raises:
        InputError: it holds anything but structures that `neupol data` wrote.
    """
    if str(path) == "-" or (Path(path).is_file() and not structures.is_dataset(Path(path))):
        raise InputError(
            f"{path}: labels need units: turn it into a dataset with `neupol data` first, "
            "such as neupol data xyz LABELLED.extxyz -o labelled.h5"
        )
    provenance.inputs(path)
    dataset = hdf5.read(path)
    if dataset.kind == "nbody":
        raise InputError(f"{path}: holds {dataset.kind}; properties are labels of structures")
    return dataset


def splits_of(dataset: Dataset, path: str, partition: str, split: str) -> dict[str, np.ndarray]:
    """The structures of each split, in the order of the file.

    Args:
        partition: by its name; empty for the only one.
        split: only this one; empty for all.

    Returns:
        Ascending indices by split; those that no split names are ``rest``, or the one nameless
        split of a file without partitions.

    Raises:
        UsageError: several partitions, none named. InputError: one that is not there.
    """
    if split and split in dataset.splits:
        raise UsageError(f"{path}: {split} is a partition; name it with --partition {split}")
    chosen = splits.chosen(dataset.splits, partition, path)
    indices = {name: np.sort(chosen[name]) for name in sorted(chosen, key=_order)}
    rest = np.setdiff1d(np.arange(dataset.size), np.concatenate([[], *indices.values()]))
    indices[REST if indices else ""] = rest
    indices = {name: rows for name, rows in indices.items() if len(rows)}
    if split and split not in indices:
        raise InputError(f"{path}: no split '{split}'; there are: {_names(indices)}")
    return {split: indices[split]} if split else indices


def _order(split: str) -> int:
    """Splits come in the order of their use, others behind."""
    return splits.SPLITS.index(split) if split in splits.SPLITS else len(splits.SPLITS)


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
    """Labels that are one number or vector a structure, and forces."""
    shape = target.values.shape[1:]
    return name == FORCES or (target.per == "structure" and shape in ((), (3,)))


def _force_unit(committee: Committee) -> dict[str, str]:
    """Forces can be had where all models have the same energy."""
    try:
        return {FORCES: f"{committee.units[committee.energy]}/Angstrom"}
    except InputError:
        return {}


def _names(names: Iterable[str]) -> str:
    return ", ".join(name or "all" for name in names) or "none"


@dataclass(frozen=True)
class Subset:
    """Some structures of a dataset: ``indices`` (n,) ascending, those of a ``split``."""

    file: str
    dataset: Dataset
    split: str
    indices: np.ndarray

    def values(self, label: str, predictions: Sequence[Prediction]) -> Compared:
        """A label that is one number a structure, or the components of a vector.

        Raises:
            InputError: the label is a number and the models' a vector, or the other way round.
        """
        predicted = np.array([p.values[label].values for p in predictions])  # (n,) or (n, 3)
        target = self.dataset.targets[label]
        reference = target.values[self.indices]
        if predicted.shape != reference.shape:
            sort = "a number" if reference.ndim == 1 else "a vector"
            raise InputError(f"{self.file}: {label} is {sort} there, and not of these models")
        spread = np.array([p.spread[label] for p in predictions if label in p.spread])
        half = np.array([p.uncertainty[label] for p in predictions if label in p.uncertainty])
        structures = np.repeat(self.indices, reference[0].size)
        both = predicted.ravel(), reference.ravel()
        return self._compared(label, target.unit, *both, spread, half, structures)

    def per_atom(self, label: str, predictions: Sequence[Prediction]) -> Compared:
        """An energy shared out over each structure's atoms."""
        whole, atoms = self.values(label, predictions), self.dataset.counts[self.indices]
        spread, half = (
            width / atoms if len(width) else width for width in (whole.spread, whole.uncertainty)
        )
        both = whole.predicted / atoms, whole.reference / atoms
        return self._compared(f"{label}/atom", whole.unit, *both, spread, half, self.indices)

    def forces(self, predictions: Sequence[Prediction]) -> Compared:
        """Components of the forces on all atoms."""
        target = self.dataset.targets[FORCES]
        predicted = [p.forces.values.ravel() for p in predictions if p.forces is not None]
        starts = self.dataset.offsets
        reference = [target.values[starts[k] : starts[k + 1]].ravel() for k in self.indices]
        structures = np.repeat(self.indices, 3 * self.dataset.counts[self.indices])
        both = np.concatenate(predicted), np.concatenate(reference)
        spread = _joined([p.force_spread for p in predictions])
        half = _joined([p.force_uncertainty for p in predictions])
        return self._compared(FORCES, target.unit, *both, spread, half, structures)

    def _compared(self, label: str, unit: str, *arrays: np.ndarray) -> Compared:
        info_of = self.dataset.info_of
        return Compared(self.file, self.split, label, unit, info_of, *arrays)

    def _named(self) -> Iterator[tuple[str, Atoms]]:
        for index in self.indices.tolist():
            yield self._name(index), self.dataset.atoms(index)

    def _name(self, index: int) -> str:
        return f"{self.file}#{index}"

    def predictable(self, committee: Committee, on_error: str) -> Subset:
        """Those whose elements the models know; the others are reported, or stop everything."""
        accepted = structures.accepted(self._named(), committee.refusal, on_error)
        index_of = {self._name(index): index for index in self.indices.tolist()}
        known = [index_of[name] for name, _ in accepted]
        return replace(self, indices=np.array(known, dtype=np.int64))

    def predicted(self, committee: Committee, forces: bool, tick: Tick) -> Iterator[Prediction]:
        """A prediction a structure."""
        predictions = committee.predicted(self._named(), forces, stress=False, doubted=False)
        for done, prediction in enumerate(predictions, 1):
            yield prediction
            tick(done)


def compare(
    committee: Committee, path: str, partition: str, split: str, on_error: str
) -> Iterator[Compared]:
    """Every label that models and dataset have in common, a split of the dataset after the other.

    Raises:
        UsageError, InputError: those of `dataset_of`, `labels_of` and `splits_of`, and for an
            element that a model never saw, unless ``on_error`` is ``skip``.
    """
    dataset = dataset_of(path)
    labels = labels_of(dataset, committee, path)
    for name, indices in splits_of(dataset, path, partition, split).items():
        subset = Subset(printable(path), dataset, name, indices).predictable(committee, on_error)
        if not len(subset.indices):
            continue
        with counted(f"predicting {name}", len(subset.indices)) as tick:
            predictions = list(subset.predicted(committee, FORCES in labels, tick))
        yield from _compared_labels(subset, labels, predictions)


def _compared_labels(
    subset: Subset, labels: Sequence[str], predictions: Sequence[Prediction]
) -> Iterator[Compared]:
    for label in labels:
        if label == FORCES:
            yield subset.forces(predictions)
            continue
        yield subset.values(label, predictions)
        if label in ENERGIES:
            yield subset.per_atom(label, predictions)
