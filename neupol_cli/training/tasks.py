"""What can be asked of a training, and which task answers for which kind of model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neupol_cli.errors import BadInput, Usage

if TYPE_CHECKING:
    from neupol_cli.hdf5 import Dataset
    from neupol_cli.training.loop import Task


@dataclass(frozen=True)
class Request:
    """What the user asked for about model, data and loss (the rest is `loop.Settings`).

    Attributes:
        targets: names of labels; empty for all that there are.
        split: name of the split; empty for the only one.
        limit: at most so many training items; 0 for all.
        loss: ``l1`` or ``l2``.
        weights: weight of a target in the loss, by name.
        references, scale: see `standardise.standard`.
        smoothness: lambda of L_smooth.
        config: plain values for the model's Config.
        device, dtype: where and in which type of number.
    """

    targets: tuple[str, ...] = ()
    split: str = ""
    limit: int = 0
    loss: str = "l1"
    weights: Mapping[str, float] = field(default_factory=dict)
    references: str = "fitted"
    scale: str = "auto"
    smoothness: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        datasets: the kinds of dataset it learns from.
        target: ``module:function`` that makes it.
        reads: which options of `neupol fit` it reads, of those that not every kind does.
    """

    datasets: tuple[str, ...]
    target: str
    reads: tuple[str, ...] = ()

    def load(self) -> Callable[[str, Dataset, Request], Task]:
        """``build(model name, dataset, request) -> Task``."""
        module, _, attribute = self.target.partition(":")
        builder: Callable[[str, Dataset, Request], Task] = getattr(
            importlib.import_module(module), attribute
        )
        return builder


# The ``task`` of a registry entry -> how it is learnt.
KINDS = {
    "property": Kind(
        ("structures",),
        "neupol_cli.training.property_task:property_task",
        ("references", "scale", "smoothness", "target", "weight"),
    ),
    "dynamics": Kind(("nbody",), "neupol_cli.training.nbody_task:nbody_task"),
    "density": Kind(("density",), "neupol_cli.training.density_task:density_task", ("smoothness",)),
}


def check_options(name: str, given: Iterable[str]) -> None:
    """Refuse options of `neupol fit` that the task of training this model would not read.

    Args:
        name: the network's, of the registry.
        given: the options that the user named; a default or a preset may say what nobody reads.

    Errors: Usage naming them.
    """
    from neupol_cli import registry

    task = registry.entry(name).task
    if task not in KINDS:
        return  # `task_for` says so
    selective = {option for kind in KINDS.values() for option in kind.reads}
    unread = sorted(selective.intersection(given) - set(KINDS[task].reads))
    if unread:
        raise Usage(f"{name} learns {task}, which goes without --{', --'.join(unread)}")


def task_for(name: str, dataset: Dataset, request: Request) -> Task:
    """The task of training the model called ``name`` on a dataset.

    Errors: Usage or BadInput where model, data and request do not fit together.
    """
    from neupol_cli import registry

    task = registry.entry(name).task
    if task not in KINDS:
        raise Usage(f"{name} learns {task}, which cannot be trained here yet")
    kind = KINDS[task]
    if dataset.kind not in kind.datasets:
        raise BadInput(
            f"{name} learns from a dataset of {' or '.join(kind.datasets)}, "
            f"and this file holds {dataset.kind}"
        )
    return kind.load()(name, dataset, request)


def chosen_split(dataset: Dataset, request: Request) -> dict[str, Any]:
    """``{"train": indices, "valid": …, "test": …}``; parts that are not there are empty.

    Without any split in the file, a random 80/10/10 one from the seed. Errors: Usage, BadInput.
    """
    import numpy as np

    if request.split and request.split not in dataset.splits:
        there = ", ".join(dataset.splits) or "none"
        raise BadInput(f"no split is called {request.split!r}; the file has: {there}")
    if not request.split and len(dataset.splits) > 1:
        raise Usage(f"choose one of the file's splits with --split: {', '.join(dataset.splits)}")
    if not dataset.splits:
        order = np.random.default_rng(request.seed).permutation(dataset.size)
        ends = [int(0.8 * dataset.size), int(0.9 * dataset.size)]
        split = dict(zip(("train", "valid", "test"), np.split(order, ends), strict=True))
    else:
        split = dict(dataset.splits[request.split or next(iter(dataset.splits))])
    parts = {part: split.get(part, np.zeros(0, np.int64)) for part in ("train", "valid", "test")}
    if request.limit:
        parts["train"] = parts["train"][: request.limit]
    if not len(parts["train"]):
        raise BadInput("the split has no training structures")
    return parts


def training_data(dataset: Dataset, train: Any) -> dict[str, Any]:
    """What a checkpoint says of its data: a network has a place for every element of the file, but
    knows only those of its ``train`` part."""
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "elements": dataset.elements_of(train),
    }
