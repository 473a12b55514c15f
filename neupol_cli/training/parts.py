"""Parts of a network by the names of their weights: what `--freeze` and `--layer-lr` speak of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from neupol_cli.errors import UsageError

AROUND = "backbone."  # of property networks; nobody types it
LAYER = re.compile(r"(?:^|[._])layers\.(\d+)\.")


def parameters_of(model: nn.Module, part: str, option: str) -> list[str]:
    """The names of a part's parameters.

    Args:
        model: whose.
        part: a dotted name of a module or parameter, with ``*`` for anything; or a number N, for
            the embeddings and the first N layers.
        option: for the message.

    Raises:
        UsageError: there are none; the message lists the parts that there are.
    """
    names = {name.removeprefix(AROUND): name for name, _ in model.named_parameters()}
    within = _up_to(int(part)) if part.isdecimal() else _named(part)
    chosen = [name for short, name in names.items() if within(short)]
    if not chosen:
        raise UsageError(f"{option} {part}: no such part; there are {', '.join(parts(names))}")
    return chosen


def parts(names: Iterable[str]) -> list[str]:
    """Parts worth naming, of dotted names of parameters: as deep as the first number."""
    short = {re.sub(r"(\.\d+)\..*|\.(weight|bias)$", r"\1", name) for name in names}
    return sorted(short)


def _named(part: str) -> Callable[[str], bool]:
    return lambda name: fnmatchcase(name, part) or fnmatchcase(name, f"{part}.*")


def _up_to(depth: int) -> Callable[[str], bool]:
    def within(name: str) -> bool:
        layer = LAYER.search(name)
        return int(layer[1]) < depth if layer else "embedding" in name

    return within


def freeze(model: nn.Module, chosen: Iterable[str]) -> None:
    """Leaves the weights of some parts as they are.

    Raises:
        UsageError: there is no such part, or nothing would be left to learn.
    """
    parameters = dict(model.named_parameters())
    for part in chosen:
        for name in parameters_of(model, part, "--freeze"):
            parameters[name].requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise UsageError("--freeze: nothing is left to learn")


def rate_factors(model: nn.Module, factors: Mapping[str, float]) -> dict[nn.Parameter, float]:
    """By what the learning rate of some parameters is multiplied; of two parts that a parameter
    is in, the later one says so.

    Raises:
        UsageError: there is no such part.
    """
    parameters = dict(model.named_parameters())
    return {
        parameters[name]: factor
        for part, factor in factors.items()
        for name in parameters_of(model, part, "--layer-lr")
    }
