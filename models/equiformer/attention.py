"""Equiformer's attention: its logits, its softmax over neighbours, and its values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neupol_cli.models.equiformer.so3 import EquivariantLinear, Muls
from neupol_cli.models.equiformer.tensor_product import TensorProduct, paths
from neupol_cli.models.nn.activation import SMOOTH_LEAKY_RELU
from neupol_cli.models.nn.dropout import dropout
from neupol_cli.models.nn.graph import segment_sum


def attention_logits(alpha: Tensor, attention: Tensor) -> Tensor:
    """b = a . f(alpha), f the smooth leaky ReLU of slope 0.2: (E, heads a) -> (E, heads)."""
    leaky = alpha * (0.2 + 0.8 * torch.sigmoid(alpha))
    return (leaky.unflatten(1, attention.shape) * (SMOOTH_LEAKY_RELU * attention)).sum(2)


def softmax(logits: Tensor, receivers: Tensor, points: int) -> Tensor:
    """(E, heads) a_ij, of which those of one receiver add up to one."""
    largest = logits.new_full((points, logits.shape[1]), -torch.inf)
    index = receivers[:, None].expand_as(logits)
    largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
    raised = (logits - largest.index_select(0, receivers)).exp()
    total = segment_sum(raised, receivers, points)
    return raised / total.index_select(0, receivers)


def attended(
    logits: Tensor, values: Sequence[Tensor], receivers: Tensor, points: int, drop: float
) -> list[Tensor]:
    """sum_j a_ij v_ij with a the softmax of the logits over an atom's neighbours.

    Args:
        logits: (E, heads).
        values: for each l (E, 2l + 1, heads x head).
        receivers: (E,).
        points: how many there are; one without neighbours gets zero.
        drop: probability of dropout of a weight.

    Returns:
        for each l (points, 2l + 1, heads x head).
    """
    weights = dropout(softmax(logits, receivers, points), drop)
    weights = weights[:, None, :, None]  # (E, 1, heads, 1)
    by_head = [value.unflatten(2, (logits.shape[1], -1)) for value in values]
    return [segment_sum(value * weights, receivers, points).flatten(2) for value in by_head]


class Values(nn.Module):
    """Lin(G x Y), with path weights that all edges share.

    Args:
        muls: of G.
        outs: of the values, all heads together, of those degrees that somebody reads.
    """

    def __init__(self, muls: Muls, outs: Muls) -> None:
        super().__init__()
        self.muls, self.outs = muls, outs
        self.paths = [path for path in paths(len(muls) - 1) if path.l3 < len(outs)]
        self.product = TensorProduct(muls, self.paths)
        self.path_weights = nn.Parameter(torch.randn(self.product.weights))
        self.lin = EquivariantLinear(tuple(self.product.widths[: len(outs)]), outs)

    def forward(self, opened: Sequence[Tensor], harmonics: Tensor) -> list[Tensor]:
        """G (E, 2l + 1, mul) a degree, Y (E, (lmax + 1)^2) -> (E, 2l + 1, out) a degree."""
        return self.lin(self.product(opened, harmonics, self.path_weights))
