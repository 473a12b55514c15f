"""PaiNN's messages and their derivative, compiled: one pass over the edges each, with filters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from neupol_cli.models.deepdft.messages import Ends, summed_messages
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer, threads
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.linear import product

SOURCE = Path(__file__).with_name("messages.cpp")
MULTIPLE = 16  # of which features are


def library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    """The compiled loops for features like these; None where they do not serve."""
    return None if hidden % MULTIPLE else compiler.library_for(SOURCE, like, {"HIDDEN": hidden})


def compiled_messages(
    basis: Tensor, weight: Tensor, offers: Tensor, ends: Ends, loops: ctypes.CDLL
) -> tuple[Tensor, Tensor]:
    """The sums of messages.py, where filters are basis weightᵀ; differentiable to any order.

    Args:
        basis: (E, K) functions of lengths.
        weight: (3 H, K) what makes filters of them.
        offers: (A, 5, H) an atom's part of s g, b, and the three components of v a.
        ends: whom the edges join.
        loops: from :func:`library`.
    """
    ds, dv = _Messages.apply(basis, weight, offers, ends.directions, ends, loops)
    return ds, dv


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        basis: Tensor,
        weight: Tensor,
        offers: Tensor,
        directions: Tensor,
        ends: Ends,
        loops: ctypes.CDLL,
    ) -> tuple[Tensor, Tensor]:
        ctx.ends, ctx.loops = ends, loops
        ctx.save_for_backward(basis, weight, offers, directions)
        out = offers.new_zeros(ends.count, 4, offers.shape[2])
        held = _Held(basis, weight, replace(ends, directions=directions))
        source = offers.contiguous()
        loops.messages(*held.arguments(), pointer(source), pointer(out))
        return out[:, 0], out[:, 1:]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted, ends = ctx.saved_tensors, ctx.needs_input_grad[:4], ctx.ends
        if torch.is_grad_enabled():  # somebody will differentiate the gradient

            def formula(inputs: list[Tensor | None]) -> tuple[Tensor, Tensor]:
                return _formula(inputs, ends)

            return *recorded_gradients(formula, inputs, gradients, wanted), None, None
        return *_gradients(ctx.loops, inputs, gradients, ends, wanted), None, None


def _formula(inputs: Sequence[Tensor | None], ends: Ends) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    basis, weight, offers, directions = cast(Sequence[Tensor], inputs)
    return summed_messages(product(basis, weight), offers, replace(ends, directions=directions))


def _gradients(
    loops: ctypes.CDLL,
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    ends: Ends,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The derivatives by basis, weight, offers and directions; the first and the last if wanted."""
    basis, weight, offers, directions = inputs
    held = _Held(basis, weight, replace(ends, directions=directions))
    by_out = torch.cat((gradients[0][:, None], gradients[1]), 1)  # (R, 4, H)
    by_turned, by_offers = torch.zeros_like(held.turned), offers.new_zeros(offers.shape)
    through, *_, along = wanted
    by_filters = basis.new_empty(len(basis), len(weight)) if through else None
    turning = basis.new_zeros(torch.get_num_threads(), len(basis), 3) if along else None
    source = offers.contiguous()
    tensors = (source, by_out, by_turned, by_offers, by_filters, turning)
    loops.messages_back(*held.arguments(), *map(pointer, tensors))
    by_basis = None if by_filters is None else product(by_filters, held.turned)
    return by_basis, by_turned.t(), by_offers, None if turning is None else turning.sum(0)


class _Ends(ctypes.Structure):
    """As in messages.cpp."""

    _fields_ = (
        ("edges", ctypes.c_long),
        ("mutual", ctypes.c_long),
        ("senders", ctypes.c_void_p),
        ("receivers", ctypes.c_void_p),
        ("directions", ctypes.c_void_p),
    )


class _Filters(ctypes.Structure):
    """As in messages.cpp."""

    _fields_ = (
        ("functions", ctypes.c_long),
        ("basis", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
    )


class _Held:
    """The first arguments of both loops, and the memory behind them.

    Attributes:
        turned: (K, 3 H) the filters' weight.
    """

    def __init__(self, basis: Tensor, weight: Tensor, ends: Ends) -> None:
        self.turned = weight.t().contiguous()
        self._basis, self._dense = basis.contiguous(), ends.dense()
        places = self._dense.senders, self._dense.receivers, self._dense.directions
        self._ends = _Ends(len(basis), ends.mutual, *map(pointer, places))
        self._filters = _Filters(len(self.turned), pointer(self._basis), pointer(self.turned))

    def arguments(self) -> tuple[object, ...]:
        return threads(), ctypes.byref(self._ends), ctypes.byref(self._filters)
