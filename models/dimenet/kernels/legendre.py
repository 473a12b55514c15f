"""Legendre polynomials of many cosines in one pass over memory, and their derivatives.

    F_l(c) = sqrt((2l+1) / 4 pi) P_l(c)

In PyTorch's operations each degree is four passes, putting degrees next to each other is a slow
one more, and the derivative of the derivative is some fifty. Third derivatives are PyTorch's
operations.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.dimenet.spherical_basis import legendre, legendre_factors
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer, threads
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients

SOURCE = Path(__file__).with_name("legendre.cpp")


def library(like: Tensor, orders: int) -> ctypes.CDLL | None:
    """The loops for so many degrees of numbers like these; None where they do not serve, for two
    degrees as well."""
    return compiler.library_for(SOURCE, like, {"ORDERS": orders}) if orders > 2 else None


def compiled(loops: ctypes.CDLL, cosines: Tensor, orders: int) -> Tensor:
    """(...,) cosines -> (..., orders) F_l, differentiable to any order."""
    return _Legendre.apply(loops, orders, cosines)


def _call(loops: ctypes.CDLL, name: str, orders: int, *tensors: Tensor) -> None:
    """One of the loops: cosines, what else it reads, and what it makes."""
    factors = tensors[0].new_tensor(legendre_factors(orders))
    count = ctypes.c_long(tensors[0].numel())
    loops[name](count, threads(), pointer(factors), *map(pointer, tensors))


class _Legendre(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, loops: ctypes.CDLL, orders: int, cosines: Tensor) -> Tensor:
        cosines = cosines.contiguous()
        ctx.loops, ctx.orders = loops, orders
        ctx.save_for_backward(cosines)
        values = cosines.new_empty(*cosines.shape, orders)
        _call(loops, "value", orders, cosines, values)
        return values

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (cosines,) = ctx.saved_tensors
        return None, None, _Slope.apply(ctx.loops, ctx.orders, cosines, gradients[0])


class _Slope(torch.autograd.Function):
    """sum_l g_l F'_l(c)."""

    @staticmethod
    def forward(
        ctx: Context, loops: ctypes.CDLL, orders: int, cosines: Tensor, g: Tensor
    ) -> Tensor:
        cosines, g = cosines.contiguous(), g.contiguous()
        ctx.loops, ctx.orders = loops, orders
        ctx.save_for_backward(cosines, g)
        by_cosines = torch.empty_like(cosines)
        _call(loops, "first", orders, cosines, g, by_cosines)
        return by_cosines

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cosines, g = ctx.saved_tensors
        (h,) = gradients
        if torch.is_grad_enabled():  # a third derivative may follow

            def formula(inputs: list[Tensor | None]) -> Tensor:
                c, g = inputs
                assert c is not None
                return torch.autograd.grad(legendre(c, ctx.orders), c, g, create_graph=True)[0]

            wanted = ctx.needs_input_grad[2:]
            return None, None, *recorded_gradients(formula, (cosines, g), (h,), wanted)
        by_cosines, by_g = torch.empty_like(cosines), torch.empty_like(g)
        _call(ctx.loops, "second", ctx.orders, cosines, g, h.contiguous(), by_cosines, by_g)
        return None, None, by_cosines, by_g
