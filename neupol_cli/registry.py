"""Every network by its name; imported when it is built, not before."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from neupol_cli.errors import Refused, Usage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Entry:
    """A network: where it is, what it learns, and where it comes from.

    ``task`` is ``property`` (numbers a structure), ``density`` or ``dynamics`` (positions later).
    """

    name: str
    target: str
    task: str
    summary: str
    source: str

    def load(self) -> Any:
        """The class itself."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "egnn",
            "neupol_cli.models.egnn:EGNN",
            "property",
            "E(n) equivariant graph network: messages from features and distances",
            "Satorras, Hoogeboom, Welling 2021 (arXiv 2102.09844)",
        ),
    )
}


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        Usage: there is none; the message lists the names.
    """
    if name not in ENTRIES:
        raise Usage(f"no model is called {name!r}; there are {', '.join(ENTRIES)}")
    return ENTRIES[name]


def configure(name: str, config: Mapping[str, Any]) -> Any:
    """A network's Config from plain values (lists for tuples), as a checkpoint keeps them.

    Raises:
        Usage: a key that this network does not have; the message lists those it has.
    """
    kind = entry(name).load().Config
    known = {field.name for field in fields(kind)}
    unknown = [key for key in config if key not in known]
    if unknown:
        raise Usage(f"{name} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return kind(**plain)


def build(name: str, config: Mapping[str, Any]) -> Any:
    """A new network with random weights, from plain values of its Config.

    Returns:
        A ``PropertyModel`` around the backbone, or the density or dynamics network itself.
    """
    network = entry(name).load()(configure(name, config))
    return _wrapped(name, network)


def _wrapped(name: str, network: Any) -> Any:
    if entry(name).task != "property":
        return network
    from neupol_cli.models.backbone import PropertyModel

    return PropertyModel(network)


def from_published(name: str, weights: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """A network with published weights.

    Args:
        name: registry name.
        weights: the published state_dict, arrays or tensors under their published names.
        config: the published arguments.

    Raises:
        Refused: a weight is missing or has another shape.
    """
    import torch

    tensors = {key: torch.as_tensor(value) for key, value in weights.items()}
    kind = entry(name).load()
    try:
        ours, state = kind.published(tensors, config)
    except KeyError as error:
        raise Refused(f"published {name} weights lack {error}") from error
    network = kind(ours)
    return _wrapped(name, _filled(name, network, state))


def _filled(name: str, network: Any, state: dict[str, torch.Tensor]) -> Any:
    """The network with these tensors in it, in their type of number."""
    floating = [t.dtype for t in state.values() if t.is_floating_point()]
    network = network.to(floating[0])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise Refused(f"these are not weights of {name}: {error}") from error
    return network.eval()
