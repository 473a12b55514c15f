"""What tensors and claims of a checkpoint may be: a checksum says that nobody damaged a file, not
that who wrote it meant well.

Checked before a network is built where that costs time or memory, before it answers where it
would answer nonsense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from neupol_cli.errors import CheckpointError
from neupol_cli.models.base import Data, Model

WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# A network may be this much larger than the file before it is finished: parts are thrown away.
SPARE_TENSORS, SPARE_NUMBERS = 64, 1 << 20


def check_numbers(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuses weights that are no numbers a network can compute with.

    Raises:
        CheckpointError: another type of number, or one that is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHTS:
            raise CheckpointError(
                f"{source}: tensor {name} is of type {_named(tensor.dtype)}; weights are "
                f"{', '.join(map(_named, WEIGHTS))}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: tensor {name} holds numbers that are not finite")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def computed_in(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The type of number that a network computes with, whose weights are stored in these.

    Half precision is a way to store weights; no network here was tried in it.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor], source: str | Path) -> Iterator[None]:
    """Ends the making of a network as soon as it has more weights than there are tensors for.

    Raises:
        CheckpointError: when that happens.
    """
    count = 2 * len(tensors) + SPARE_TENSORS
    numbers = 2 * sum(tensor.numel() for tensor in tensors.values()) + SPARE_NUMBERS

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, numbers
        count -= 1
        numbers -= 0 if parameter is None else parameter.numel()
        if count < 0 or numbers < 0:
            raise CheckpointError(f"{source}: its settings ask for more weights than it holds")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def check_claims(model: Model, source: str | Path) -> None:
    """Refuses a header that says of its network what is not so.

    Raises:
        CheckpointError: elements that the network has no place for, or other targets or units.
    """
    trained = model.header.get("data", Data()).get("elements", [])
    if not set(trained) <= set(model.species):
        raise CheckpointError(f"{source}: says it was trained on elements that it has no place for")
    claimed = model.header.get("targets") or model.targets
    for name, unit in model.targets.items():
        if claimed.get(name) != unit:
            raise CheckpointError(
                f"{source}: says it answers {claimed}, but answers {name} [{unit}]"
            )
