"""The functions of deepdft/softplus.py, compiled: one pass instead of three or six.

Derivatives of derivatives come from the plain formula.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.deepdft import softplus as plain
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients

SOURCE = Path(__file__).with_name("softplus.cpp")
MULTIPLE = 16  # of which a row's numbers are


def ssp(x: Tensor) -> Tensor:
    """The function of the same name in softplus.py; the formula where no loop serves."""
    loops = _library(x)
    return plain.ssp(x) if loops is None else _Ssp.apply(loops, x)


def ssp_of_ends(own: Tensor, other: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
    """The same for an edge's ends."""
    loops = _library(own)
    if loops is None:
        return plain.ssp_of_ends(own, other, senders, receivers)
    return _Ends.apply(loops, senders.contiguous(), receivers.contiguous(), own, other)


def _library(like: Tensor) -> ctypes.CDLL | None:
    return None if like.shape[-1] % MULTIPLE else compiler.library_for(SOURCE, like, {})


class _Ssp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, loops: ctypes.CDLL, x: Tensor) -> Tensor:
        ctx.loops = loops
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        loops.ssp(ctypes.c_long(x.numel()), pointer(x), pointer(y))
        return y

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            return None, gradients[0] * torch.sigmoid(x)
        gradient = gradients[0].contiguous()
        by = torch.empty_like(x)
        ctx.loops.ssp_back(ctypes.c_long(x.numel()), *map(pointer, (x, gradient, by)))
        return None, by


class _Ends(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        loops: ctypes.CDLL,
        senders: Tensor,
        receivers: Tensor,
        own: Tensor,
        other: Tensor,
    ) -> Tensor:
        ctx.loops = loops
        own, other = own.contiguous(), other.contiguous()
        ctx.save_for_backward(senders, receivers, own, other)
        y = own.new_empty(len(senders), own.shape[1])
        loops.ends(*_sizes(y), *map(pointer, (senders, receivers, own, other, y)))
        return y

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        senders, receivers, own, other = ctx.saved_tensors
        if torch.is_grad_enabled():
            exact = recorded_gradients(
                lambda x: plain.ssp_of_ends(x[0], x[1], senders, receivers),  # type: ignore[arg-type]
                (own, other), gradients, ctx.needs_input_grad[3:],
            )  # fmt: skip
            return None, None, None, *exact
        gradient = gradients[0].contiguous()
        found = own.new_zeros(own.shape), other.new_zeros(other.shape)
        given = (senders, receivers, own, other, gradient, *found)
        ctx.loops.ends_back(*_sizes(gradient), *map(pointer, given))
        return None, None, None, *found


def _sizes(rows: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    """E and n of (E, n)."""
    return ctypes.c_long(rows.shape[0]), ctypes.c_long(rows.shape[1])
