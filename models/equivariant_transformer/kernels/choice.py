"""Which of the equivariant transformer's kernels serve: the one place where that is decided."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from neupol_cli.models.equivariant_transformer import attention as plain
from neupol_cli.models.equivariant_transformer import state as plain_steps
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
    """What serves for the functions of the same names in attention.py and state.py."""

    attention: Callable[[MessageInputs, UniqueEdges, AttentionShape], tuple[Tensor, Tensor]]
    unpacked: Callable[[Tensor], tuple[Tensor, Tensor]]
    packed: Callable[[Tensor, Tensor], Tensor]
    scaled: Callable[[Tensor, Tensor], Tensor]
    updated: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PLAIN_STEPS = (
    plain_steps.unpacked,
    plain_steps.packed,
    plain_steps.scaled,
    plain_steps.updated,
)
PLAIN = Kernels(plain.attention, *PLAIN_STEPS)


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
    loops, steps = attention_compiled.library(state, shape), point_steps.library(state)
    return Kernels(
        partial(_attention, tiled() if loops is None else compiled(loops)),
        *(PLAIN_STEPS if steps is None else _compiled_steps(steps)),
    )


def compiled(library: ctypes.CDLL) -> Loops:
    """Loops in C++."""
    passes = (attention_compiled.sums, attention_compiled.first, attention_compiled.second)
    return Loops(*(partial(each_pass, library) for each_pass in passes))


def tiled() -> Loops:
    """Tiles of PyTorch's operations."""
    return Loops(attention_tiled.sums, attention_tiled.first, attention_tiled.second)


def _attention(
    loops: Loops, inputs: MessageInputs, edges: UniqueEdges, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    return Attention.apply(loops, edges, shape, *inputs)


def _compiled_steps(library: ctypes.CDLL) -> tuple[Callable, ...]:
    steps = (
        point_steps.Unpacked,
        point_steps.Packed,
        point_steps.Scaled,
        point_steps.Updated,
    )
    return tuple(partial(step.apply, library) for step in steps)
