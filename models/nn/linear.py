"""The affine map that every network here is made of, with the faster of two CPU libraries.

PyTorch hands float32 products on the CPU to MKL, which leaves half of an AMD core's vector units
idle; oneDNN, which PyTorch carries too, does not: 2.2 to 3.8 times as fast (benchmarks/linear.py).
On Intel's own processors MKL is the faster one. The numbers differ in the last bit only.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.gram import gram
from neupol_cli.models.nn.gradient_needed import gradient_needed


def chosen() -> str:
    """The library that products go to on this CPU, in a few words."""
    if _onednn() is not None:
        return "oneDNN"
    return "MKL" if torch.backends.mkl.is_available() else "PyTorch's own"


def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's product where it is the faster one; None elsewhere, and in builds without it."""
    if _intel() or not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@cache
def _intel() -> bool:
    """Whether this is one of Intel's processors."""
    described = Path("/proc/cpuinfo")
    text = described.read_text() if described.exists() else platform.processor()
    return "GenuineIntel" in text


# Products narrower than this on any side are quicker in PyTorch's own library; of many rows, only
# much narrower ones.
NARROW = 32
MANY, NARROWEST = 2048, 6


class _Product(torch.autograd.Function):
    """x Wᵀ + b; its derivatives are products of the same kind, to any order."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return _multiplied(x, weight, bias)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight, bias = ctx.saved_tensors
        dx = product(g, weight.t()) if ctx.needs_input_grad[0] else None
        dw = by_weight(g, x) if ctx.needs_input_grad[1] and gradient_needed(weight) else None
        db = g.sum(0) if ctx.needs_input_grad[2] and gradient_needed(bias) else None
        return dx, dw, db


def by_weight(g: Tensor, x: Tensor) -> Tensor:
    """gᵀ x. oneDNN has its first matrix copied if it is turned: let that be the narrower one."""
    gradient = None if torch.is_grad_enabled() else gram(g, x)
    if gradient is not None:
        return gradient
    if x.shape[1] < g.shape[1]:
        return product(x.t(), g.t()).t()
    return product(g.t(), x.t())


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    onednn = _onednn()
    if onednn is None:
        return functional.linear(x, weight, bias)
    return onednn(x.contiguous(), _dense(weight), bias, "none", [], "")


def _dense(matrix: Tensor) -> Tensor:
    """The matrix itself if it or its transpose is contiguous; oneDNN crawls on a slice."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out), differentiable to any order.
    """
    fast = x.device.type == "cpu" and x.dtype == torch.float32
    rows = x.numel() // max(x.shape[-1], 1)
    least = NARROWEST if rows >= MANY else NARROW
    if not fast or min(weight.shape) < least or rows < NARROW:
        return functional.linear(x, weight, bias)
    multiplied = _Product.apply if torch.is_grad_enabled() else _multiplied
    if x.dim() == 2:
        return multiplied(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    return multiplied(flat, weight, bias).view(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """torch.nn.Linear with the same parameters and initialisation, through :func:`product`."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


class Perceptron(nn.Module):
    """L(a(L(.))), its two maps by name: tables and compiled loops take them one at a time.

    Args:
        wide, hidden, out: sizes.
        bias: whether the second map has one.
        activation: a, silu unless it is another.
    """

    def __init__(
        self,
        wide: int,
        hidden: int,
        out: int,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = functional.silu,
    ) -> None:
        super().__init__()
        self.first = Linear(wide, hidden)
        self.second = Linear(hidden, out, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., wide) -> (..., out)."""
        return self.second(self.activation(self.first(x)))
