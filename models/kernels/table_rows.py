"""Four neighbouring rows of a table, weighted and added, without a copy of the rows.

The plain form (TableLookup.read_plainly) makes an (E, 4, C) array of rows first. Here they are
summed as they are read, and both derivatives are made in one pass over the edges, by compiled loops
(table_rows.cpp). Where there are none, rows are bags that PyTorch sums as it reads them, and the
gradient by the table gathers edges by row alike.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer

SOURCE = Path(__file__).with_name("table_rows.cpp")


def weighted_rows(table: Tensor, left: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Rows 2 left .. 2 left + 3 of ``table``, weighted.

    Args:
        table: (2 bins, C).
        left: (E,) from 0 to bins - 2.
        weights: (E, 4).
        bins: how many pairs of rows the table has.

    Returns:
        (E, C), differentiable twice by table and weights.
    """
    return _WeightedRows.apply(table, left, weights, bins)


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, table: Tensor, left: Tensor, weights: Tensor, bins: int) -> Tensor:
        ctx.save_for_backward(table, left, weights)
        ctx.bins = bins
        loops = compiler.library_for(SOURCE, table, {})
        if loops is None:
            rows = 2 * left[:, None] + torch.arange(4, device=left.device)
            return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
        out = table.new_empty(left.shape[0], table.shape[1])
        given = (left, weights.contiguous(), table.contiguous(), out)
        loops.read_rows(*_sizes(out), *map(pointer, given))
        return out

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, left, weights = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        by_table, by_weights = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        loops = compiler.library_for(SOURCE, table, {})
        if loops is None or torch.is_grad_enabled():  # somebody differentiates the gradient
            first = _gathered(gradient, left, weights, ctx.bins) if by_table else None
            return first, None, _met(table, left, gradient) if by_weights else None, None
        answers = (
            table.new_zeros(table.shape) if by_table else None,
            weights.new_empty(weights.shape) if by_weights else None,
        )
        given = (left.argsort(), left, weights.contiguous(), table.contiguous(), gradient)
        loops.read_rows_back(*_sizes(gradient), *map(pointer, (*given, *answers)))
        return answers[0], None, answers[1], None


def _sizes(rows: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    """E and C of (E, C)."""
    return ctypes.c_long(rows.shape[0]), ctypes.c_long(rows.shape[1])


def _met(table: Tensor, left: Tensor, gradient: Tensor) -> Tensor:
    """(E, 4) the products of each edge's gradient (E, C) with its rows."""
    rows = [(table.index_select(0, 2 * left + n) * gradient).sum(1) for n in range(4)]
    return torch.stack(rows, 1)


def _gathered(gradient: Tensor, left: Tensor, weights: Tensor, bins: int) -> Tensor:
    """The transpose of reading: (E, C) -> (2 bins, C)."""
    order = torch.argsort(left)
    offsets = torch.searchsorted(left[order], torch.arange(bins - 1, device=left.device))
    in_order = weights.index_select(0, order)
    sums = [
        functional.embedding_bag(
            order,
            gradient,
            offsets,
            mode="sum",
            per_sample_weights=in_order[:, n].contiguous(),
        )
        for n in range(4)
    ]
    total = gradient.new_zeros(bins, 2, gradient.shape[1])
    total[:-1, 0] = sums[0]
    total[:-1, 1] = sums[1]
    total[1:, 0] += sums[2]
    total[1:, 1] += sums[3]
    return total.flatten(0, 1)
