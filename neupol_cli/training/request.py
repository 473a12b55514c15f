"""What the user asks of a training about model, data and loss; the data that a task is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from neupol_cli.datasets import splits
from neupol_cli.errors import InputError
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.base import Data

if TYPE_CHECKING:
    from neupol_cli.training.start import Start


@dataclass(frozen=True)
class Request:
    """What the user asked for about model, data and loss (the rest is `settings.Settings`).

    Attributes:
        targets: names of labels; empty for all that there are.
        partition: name of the partition; empty for the only one.
        limit: at most so many training items; 0 for all.
        loss: ``l1`` or ``l2``.
        weights: weight of a target in the loss, by name.
        references, scale: see `target_normalization.normalization_of`.
        smoothness: lambda of L_smooth.
        config: plain values for the model's Config.
        bounded: whether targets that cannot be negative are kept from it (models/bound.py), unless
            ``config`` says which.
        tied: whether targets that are made of others are learnt so (models/ties.py), unless
            ``config`` says which, and extensive ones as sums over atoms and nothing else.
        freeze: parts of the network that stay as they are (parts.py).
        start: the trained model to go on from; None for random weights.
        device, dtype: where and in which type of number.
    """

    targets: tuple[str, ...] = ()
    partition: str = ""
    limit: int = 0
    loss: str = "l1"
    weights: Mapping[str, float] = field(default_factory=dict)
    references: str = "fitted"
    scale: str = "auto"
    smoothness: float = 0.0
    config: Mapping[str, object] = field(default_factory=dict)
    bounded: bool = True
    tied: bool = True
    freeze: tuple[str, ...] = ()
    start: Start | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"


def chosen_partition(dataset: Dataset, request: Request) -> dict[str, np.ndarray]:
    """The structures to train on, to validate on and to test on.

    Without any partition in the file, a random one of 80/10/10 from the seed.

    Returns:
        Indices by split, ``train``, ``valid`` and ``test``; splits that are not there are empty.

    Raises:
        UsageError: the file has several partitions and none is named.
        InputError: there is none of that name, or nothing to train on.
    """
    partition = splits.chosen(dataset.splits, request.partition)
    if not dataset.splits:
        partition = _random(dataset.size, request.seed)
    indices = {split: partition.get(split, np.zeros(0, np.int64)) for split in splits.SPLITS}
    if request.limit:
        indices["train"] = indices["train"][: request.limit]
    if not len(indices["train"]):
        raise InputError("the partition has no training structures")
    return indices


def chosen_species(dataset: Dataset, request: Request) -> list[int]:
    """Atomic numbers that a network gets a place for: as asked for, or those of the data.

    Raises:
        InputError: the data hold elements beside those that were asked for.
    """
    species = cast(Sequence[int], request.config.get("species", dataset.elements))
    missing = sorted(set(dataset.elements) - set(species))
    if missing:
        raise InputError(f"the data hold elements {missing} that are not in --set species")
    return sorted(set(species))


def _random(size: int, seed: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(seed).permutation(size)
    ends = [int(0.8 * size), int(0.9 * size)]
    return dict(zip(splits.SPLITS, np.split(order, ends), strict=True))


def training_data(dataset: Dataset, train: np.ndarray) -> Data:
    """What a checkpoint says of its data.

    A network has a place for every element of the file, but knows only those of its ``train``
    split.
    """
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "elements": dataset.elements_of(train),
    }
