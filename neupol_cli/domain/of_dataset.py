"""The facts of a dataset's training structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms

from neupol_cli.domain.facts import Facts, Range, facts_of
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.targets import target

CHARGE = "charge"  # a label that is the structures' total charge


def facts_of_dataset(dataset: Dataset, train: np.ndarray, check: Callable[[], None]) -> Facts:
    """What the structures of a split were like.

    Args:
        dataset: where they are.
        train: (n,) their numbers, at least one.
        check: called between structures; raises where somebody wants to stop.
    """
    return facts_of(_structures(dataset, train, check), _ranges(dataset, train))


def _structures(dataset: Dataset, train: np.ndarray, check: Callable[[], None]) -> Iterator[Atoms]:
    charges = dataset.targets.get(CHARGE)
    for index in train.tolist():
        check()
        atoms = dataset.atoms(index)
        if charges is not None:
            atoms.info["charge"] = float(charges.values[index])
        yield atoms


def _ranges(dataset: Dataset, train: np.ndarray) -> dict[str, Range]:
    """Lowest and highest of every target that is a number; of extensive ones, an atom."""
    ranges = {}
    for name, label in dataset.targets.items():
        if label.per == "structure" and label.values.ndim == 1:
            values = label.values[train]
            if target(name).extensive:
                values = values / dataset.counts[train]
            ranges[name] = [float(values.min()), float(values.max())]
    return ranges
