"""The contraction of tensor_product.py with its derivative written out.

    forward    out_p = S_p^T W_p,   W_p = R_p x
    backward   dW_p = S_p dout_p,   dS_p = W_p dout_p^T
               dx = sum_p R_p dW_p,   dR_p = sum_m1 x dW_p

W_p, the largest of all these, is made again instead of being kept, and all paths share one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.kernels.context import Context


def contracted(symbols: Tensor, sent: Tensor, weights: Tensor, widths: list[int]) -> list[Tensor]:
    """As ``contracted`` of tensor_product.py, differentiable once."""
    atoms, channels = symbols.shape[0], sent.shape[2]
    summed = _Contract.apply(symbols, sent, weights, widths)  # (A, sum (2 l3 + 1) u)
    by_path = summed.split([width * channels for width in widths], 1)
    shaped = zip(by_path, widths, strict=True)
    return [part.view(atoms, width, channels) for part, width in shaped]


class _Contract(torch.autograd.Function):
    """All paths one behind the other."""

    @staticmethod
    def forward(
        ctx: Context, symbols: Tensor, sent: Tensor, weights: Tensor, widths: list[int]
    ) -> Tensor:
        ctx.save_for_backward(symbols, sent, weights)
        ctx.widths = widths
        atoms, channels = symbols.shape[0], sent.shape[2]
        weighted = _weighted(symbols, sent, weights, len(widths))
        out = sent.new_empty(atoms, sum(widths) * channels)
        start = 0
        for part, width in zip(weighted, widths, strict=True):
            rows = symbols[:, :, start : start + width].transpose(1, 2)
            product = torch.bmm(rows, part)  # (A, 2 l3 + 1, u)
            out[:, start * channels : (start + width) * channels] = product.flatten(1)
            start += width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        symbols, sent, weights = ctx.saved_tensors
        dsymbols, dweighted = _contracted_gradients(
            symbols, sent, weights, ctx.widths, gradient, ctx.needs_input_grad[0]
        )
        paths, (edges, components, channels) = len(ctx.widths), sent.shape
        dweighted = dweighted.view(paths, edges, components, channels)
        dsent = (dweighted * _by_path(weights, paths, channels)).sum(0)
        dweights = (dweighted * sent).sum(2).transpose(0, 1).reshape(edges, paths * channels)
        return dsymbols, dsent, dweights, None


def _contracted_gradients(
    symbols: Tensor, sent: Tensor, weights: Tensor, widths: list[int], gradient: Tensor, moved: bool
) -> tuple[Tensor | None, Tensor]:
    """dS (A, K m1, sum of 2 l3 + 1), where atoms or probes moved, and dW (paths, A, K m1, u)."""
    channels, start = sent.shape[2], 0
    dsymbols = torch.empty_like(symbols) if moved else None
    weighted = _weighted(symbols, sent, weights, len(widths)) if moved else None
    dweighted = sent.new_empty(len(widths), *symbols.shape[:2], channels)
    for path, width in enumerate(widths):
        part = gradient[:, start * channels : (start + width) * channels]
        part = part.reshape(-1, width, channels)
        torch.bmm(symbols[:, :, start : start + width], part, out=dweighted[path])
        if dsymbols is not None and weighted is not None:
            rising = torch.bmm(weighted[path], part.transpose(1, 2))
            dsymbols[:, :, start : start + width] = rising
        start += width
    return dsymbols, dweighted


def _weighted(symbols: Tensor, sent: Tensor, weights: Tensor, paths: int) -> Tensor:
    """W: (E, m1, u), (E, paths u) -> (paths, A, K m1, u)."""
    edges, components, channels = sent.shape
    weighted = sent.new_empty(paths, edges, components, channels)
    torch.mul(sent, _by_path(weights, paths, channels), out=weighted)
    return weighted.view(paths, *symbols.shape[:2], channels)


def _by_path(weights: Tensor, paths: int, channels: int) -> Tensor:
    """(E, paths u) -> (paths, E, 1, u)."""
    return weights.reshape(-1, paths, channels).transpose(0, 1)[:, :, None]
