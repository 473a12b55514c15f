"""Which of the equivariant transformer's kernels serve: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from neupol_cli.models.equivariant_transformer import attention as plain
from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels import (
    attention_compiled,
    attention_tiled,
    point_steps,
)
from neupol_cli.models.equivariant_transformer.kernels.attention_function import Attention, Loops
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.unique_edges import UniqueEdges


class Kernels(NamedTuple):
    """What serves for the functions of the same names in attention.py."""

    attention: Callable[[MessageInputs, UniqueEdges, AttentionShape], tuple[Tensor, Tensor]]
    unpacked: Callable[[Tensor], tuple[Tensor, Tensor]]
    packed: Callable[[Tensor, Tensor], Tensor]
    scaled: Callable[[Tensor, Tensor], Tensor]
    updated: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PLAIN = Kernels(plain.attention, plain.unpacked, plain.packed, plain.scaled, plain.updated)


def kernels(state: Tensor, shape: AttentionShape) -> Kernels:
    """The fastest kernels for states like this one.

    Compiled loops where there are a CPU and a compiler, tiles of PyTorch's operations elsewhere;
    the plain formulas if the environment says ``NEUPOL_KERNELS=0``.

    Args:
        state: (P, 4 H).
        shape: the attention's.
    """
    if not compiler.enabled():
        return PLAIN
    attention = partial(_attention, _loops(state, shape))
    library = point_steps.library(state)
    if library is None:
        return PLAIN._replace(attention=attention)
    return Kernels(
        attention,
        partial(point_steps.Unpacked.apply, library),
        partial(point_steps.Packed.apply, library),
        partial(point_steps.Scaled.apply, library),
        partial(point_steps.Updated.apply, library),
    )


def _loops(state: Tensor, shape: AttentionShape) -> Loops:
    """Compiled loops, or tiles of PyTorch's operations where there are none."""
    library = attention_compiled.library(state, shape)
    if library is None:
        return Loops(attention_tiled.sums, attention_tiled.first, attention_tiled.second)
    return Loops(
        partial(attention_compiled.sums, library),
        partial(attention_compiled.first, library),
        partial(attention_compiled.second, library),
    )


def _attention(
    loops: Loops, inputs: MessageInputs, edges: UniqueEdges, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    return Attention.apply(loops, edges, shape, *inputs)
