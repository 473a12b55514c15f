"""Which of the equivariant transformer's kernels serve: the one place where that is decided."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from neupol_cli.models.equivariant_transformer import attention as plain
from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels import attention_compiled, attention_tiled
from neupol_cli.models.equivariant_transformer.kernels.attention_function import Attention, Loops
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.unique_edges import UniqueEdges


def attention(
    inputs: MessageInputs, edges: UniqueEdges, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    """The function of the same name in attention.py, by the fastest kernel for such inputs.

    Compiled loops where there are a CPU and a compiler, tiles of PyTorch's operations elsewhere;
    the plain formula if the environment says ``NEUPOL_KERNELS=0``.
    """
    if not compiler.enabled():
        return plain.attention(inputs, edges, shape)
    return Attention.apply(_loops(inputs.points, shape), edges, shape, *inputs)


def _loops(points: Tensor, shape: AttentionShape) -> Loops:
    """Compiled loops, or tiles of PyTorch's operations where there are none."""
    library = attention_compiled.library(points, shape)
    if library is None:
        return Loops(attention_tiled.sums, attention_tiled.first, attention_tiled.second)
    return Loops(
        partial(attention_compiled.sums, library),
        partial(attention_compiled.first, library),
        partial(attention_compiled.second, library),
    )
