"""Which task trains which kind of model, and which options of `neupol fit` it reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neupol_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from neupol_cli.io.hdf5 import Dataset
    from neupol_cli.training.request import Request
    from neupol_cli.training.task import Task


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
        ("structures", "density"),
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

    Raises:
        UsageError: naming them.
    """
    from neupol_cli import registry

    task = registry.entry(name).task
    if task not in KINDS:
        return  # `task_for` says so
    selective = {option for kind in KINDS.values() for option in kind.reads}
    unread = sorted(selective.intersection(given) - set(KINDS[task].reads))
    if unread:
        raise UsageError(f"{name} learns {task}, which goes without --{', --'.join(unread)}")


def task_for(name: str, dataset: Dataset, request: Request) -> Task:
    """The task of training the model called ``name`` on a dataset.

    Raises:
        InputError, UsageError: where model, data and request do not fit together.
    """
    from neupol_cli import registry

    task = registry.entry(name).task
    if task not in KINDS:
        raise UsageError(f"{name} learns {task}, which cannot be trained here yet")
    kind = KINDS[task]
    if dataset.kind not in kind.datasets:
        raise InputError(
            f"{name} learns from a dataset of {' or '.join(kind.datasets)}, "
            f"and this file holds {dataset.kind}"
        )
    return kind.load()(name, dataset, request)
