"""silu, and the affine map before it, with derivatives that cost one pass over memory each.

PyTorch differentiates silu's derivative step by step, some ten passes over numbers that do not fit
a cache; where forces are learnt that is a fourth of the time. The loops of fused/activation.cpp
make one pass of each derivative and of the sums around it. Where there is no compiler, and in third
derivatives, the operations are PyTorch's.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models import fused
from neupol_cli.models.asked import asked
from neupol_cli.models.linear import Linear, by_weight, product

SOURCE = fused.HERE / "activation.cpp"
REALS = {torch.float32: "float", torch.float64: "double"}
# With fewer numbers a call costs more than it saves.
FEWEST = 1 << 13


def activated(layer: Linear, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """silu(L x), plus ``skip`` if there is one.

    Args:
        layer: L, with or without a bias.
        x: (P, in).
        skip: (P, out).
    """
    if not torch.is_grad_enabled():
        found = functional.silu(layer(x), inplace=True)
        return found if skip is None else found.add_(skip)
    if x.shape[0] * layer.out_features < FEWEST or _library(x) is None:
        found = functional.silu(layer(x))
        return found if skip is None else found + skip
    return _Activated.apply(x, layer.weight, layer.bias, skip)[0]


def _library(x: Tensor) -> ctypes.CDLL | None:
    if x.device.type != "cpu" or x.dtype not in REALS:
        return None
    return fused.library(SOURCE, {"REAL": REALS[x.dtype]})


def _call(name: str, *inputs: Tensor | None, results: int = 1) -> list[Tensor]:
    """One of the library's functions on numbers of one shape."""
    like = inputs[0]
    assert like is not None
    library = _library(like)
    assert library is not None
    made = [torch.empty_like(like) for _ in range(results)]
    whole = [None if each is None else each.contiguous() for each in inputs]
    sizes = (ctypes.c_long(n) for n in (like.numel(), torch.get_num_threads()))
    places = (None if each is None else each.data_ptr() for each in (*whole, *made))
    getattr(library, name)(*sizes, *map(ctypes.c_void_p, places))
    return made


class _Activated(torch.autograd.Function):
    """silu(z) + skip and z = x W^T + b. z is an output too: what the derivative's own derivative
    has to say of it comes back here, and joins the rest in one pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        z = product(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, z)
        ctx.set_materialize_grads(False)
        return _call("value", z, skip)[0], z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, z = ctx.saved_tensors
        g, more = gradients
        dz: Any = more if g is None else _Slope.apply(z, g, more)
        needs = ctx.needs_input_grad
        dx = product(dz, weight.t()) if needs[0] else None
        dw = by_weight(dz, x) if needs[1] and asked(weight) else None
        db = dz.sum(0) if needs[2] and asked(bias) else None
        return dx, dw, db, g if needs[3] else None


class _Slope(torch.autograd.Function):
    """g silu'(z) + more."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, g: Tensor, more: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, g)
        return _call("first", z, g, more)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, g = ctx.saved_tensors
        (h,) = gradients
        more = h if ctx.needs_input_grad[2] else None
        if torch.is_grad_enabled():  # a third derivative may follow
            s = torch.sigmoid(z)
            steep = s * (1 - s)
            return h * g * steep * (2 + z * (1 - 2 * s)), h * (s + z * steep), more
        by_z, by_g = _call("second", z, g, h, results=2)
        return by_z, by_g, more
