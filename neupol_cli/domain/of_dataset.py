"""The facts of a dataset's training structures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from ase import Atoms

from neupol_cli.domain.bonds import Bonds, Range
from neupol_cli.domain.facts import Facts, facts_of
from neupol_cli.io.charges import STATED
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.targets import target

FEW = 0.01  # of unseen structures, that may have surroundings that training structures had not
ENOUGH = 2000  # unseen structures, to know that


def facts_of_dataset(
    dataset: Dataset, splits: Mapping[str, np.ndarray], check: Callable[[], None]
) -> Facts:
    """What the structures of the training split were like.

    Args:
        dataset: where they are.
        splits: ``train`` (n,) their numbers, at least one; ``valid`` those of unseen ones.
        check: called between structures; raises where somebody wants to stop.
    """
    train, valid = splits["train"], splits.get("valid", np.zeros(0, int))
    facts = facts_of(_structures(dataset, train, check), _ranges(dataset, train))
    return replace(facts, fine=_covers(facts, _structures(dataset, valid[:ENOUGH], check)))


def _covers(facts: Facts, unseen: Iterable[Atoms]) -> bool:
    """Whether all but a few of some unseen structures have known surroundings only."""
    known = [facts.surroundings.issuperset(Bonds.of(atoms).surroundings()) for atoms in unseen]
    return bool(known) and known.count(False) <= FEW * len(known)


def _structures(dataset: Dataset, chosen: np.ndarray, check: Callable[[], None]) -> Iterator[Atoms]:
    for index in chosen.tolist():
        check()
        yield dataset.atoms(index)


def _ranges(dataset: Dataset, train: np.ndarray) -> dict[str, Range]:
    """Lowest and highest of every target that is a number; of extensive ones, an atom."""
    ranges = {}
    for name, label in dataset.targets.items():
        if name not in STATED and label.per == "structure" and label.values.ndim == 1:
            values = label.values[train]
            if target(name).extensive:
                values = values / dataset.counts[train]
            ranges[name] = [float(values.min()), float(values.max())]
    return ranges
