"""silu(x W^T + b) + skip as one operation whose derivatives are one pass over memory each.

    z = x W^T + b,   y = silu(z) + skip,   silu(z) = z s(z),   s = sigmoid
    silu'(z)  = s (1 + z (1 - s)),   silu''(z) = s (1 - s) (2 + z (1 - 2 s))

PyTorch differentiates silu's derivative step by step, some ten passes over numbers that do not fit
a cache; where forces are learnt that is a fourth of the time. The loops of activation.cpp make one
pass of each derivative and of the sums around it. Third derivatives are PyTorch's operations.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.linear import by_weight, product

SOURCE = Path(__file__).with_name("activation.cpp")


def serves(x: Tensor) -> bool:
    """Whether the loops can take numbers like these: float32 or float64, on a CPU, compiled."""
    return _library(x) is not None


def silu_of_linear(x: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    """silu(x W^T + b) + skip, differentiable to any order.

    Args:
        x: (P, in).
        weight: (out, in).
        bias: (out,) or None.
        skip: (P, out) or None.
    """
    return _SiluOfLinear.apply(x, weight, bias, skip)[0]


def _library(like: Tensor) -> ctypes.CDLL | None:
    return compiler.library_for(SOURCE, like, {})


def _call(name: str, *inputs: Tensor | None, results: int = 1) -> list[Tensor]:
    """One of the library's functions on numbers of one shape."""
    like = inputs[0]
    assert like is not None
    library = _library(like)
    assert library is not None
    outputs = [torch.empty_like(like) for _ in range(results)]
    dense = [None if tensor is None else tensor.contiguous() for tensor in inputs]
    sizes = (ctypes.c_long(n) for n in (like.numel(), torch.get_num_threads()))
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*dense, *outputs))
    library[name](*sizes, *map(ctypes.c_void_p, pointers))
    return outputs


class _SiluOfLinear(torch.autograd.Function):
    """silu(z) + skip and z = x W^T + b. z is an output too: what the derivative's own derivative
    has to say of it comes back here, and joins the rest in one pass."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        z = product(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, z)
        ctx.set_materialize_grads(False)
        return _call("value", z, skip)[0], z

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, z = ctx.saved_tensors
        g, by_z = gradients
        dz = by_z if g is None else _Slope.apply(z, g, by_z)
        assert dz is not None  # a gradient came by one of the two outputs
        needs = ctx.needs_input_grad
        dx = product(dz, weight.t()) if needs[0] else None
        dw = by_weight(dz, x) if needs[1] and gradient_needed(weight) else None
        db = dz.sum(0) if needs[2] and gradient_needed(bias) else None
        return dx, dw, db, g if needs[3] else None


class _Slope(torch.autograd.Function):
    """g silu'(z) + by_z, by_z the gradient that came to z from elsewhere."""

    @staticmethod
    def forward(ctx: Context, z: Tensor, g: Tensor, by_z: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, g)
        return _call("first", z, g, by_z)[0]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, g = ctx.saved_tensors
        (h,) = gradients
        passed_on = h if ctx.needs_input_grad[2] else None
        if torch.is_grad_enabled():  # a third derivative may follow
            return *_slope_gradients(z, g, h), passed_on
        return *_call("second", z, g, h, results=2), passed_on


def _slope_gradients(z: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """h times the derivatives of g silu'(z) by z and by g, in PyTorch's operations."""
    s = torch.sigmoid(z)
    steep = s * (1 - s)
    return h * g * steep * (2 + z * (1 - 2 * s)), h * (s + z * steep)
