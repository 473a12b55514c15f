"""The functions of deepdft/updates.py and their derivatives, compiled: one pass over points each.

Written with one PyTorch operation after another, each walks (P, 3, H) tensors through memory.
Derivatives of derivatives come from the plain formula.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.deepdft import updates as plain
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients

SOURCE = Path(__file__).with_name("updates.cpp")
MULTIPLE = 16  # of which features are


class Updates(NamedTuple):
    """What serves for the functions of the same names in deepdft/updates.py."""

    meet: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
    change: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    gate: Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


PLAIN = Updates(plain.meet, plain.change, plain.gate)


def updates(like: Tensor, hidden: int, forces_are_learnt: bool) -> Updates:
    """Compiled loops; the formulas where none serve, and where derivatives of derivatives follow.

    Args:
        like: of the type and on the device of the features.
        hidden: their number H.
        forces_are_learnt: derivatives of derivatives follow.
    """
    if hidden % MULTIPLE or forces_are_learnt:
        return PLAIN
    loops = compiler.library_for(SOURCE, like, {"HIDDEN": hidden})
    if loops is None:
        return PLAIN
    return Updates(
        lambda s, both, soft: _Meet.apply(loops, soft, s, both),
        lambda *inputs: _Change.apply(loops, *inputs),
        lambda *inputs: _Gate.apply(loops, *inputs),
    )


class _Meet(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, loops: ctypes.CDLL, soft: float, s: Tensor, both: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        s, both = s.contiguous(), both.contiguous()
        points, hidden = s.shape
        inputs, products = s.new_empty(points, 2 * hidden), torch.empty_like(s)
        tensors = map(pointer, (s, both, inputs, products))
        loops.meet(ctypes.c_long(points), _real(soft, s), *tensors)
        ctx.loops, ctx.soft = loops, soft
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(s, both, inputs)
        return inputs, products, both[:, :, :hidden]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        s, both, inputs = ctx.saved_tensors
        shapes = inputs.shape, s.shape
        dense = [_dense(g, s, shape) for g, shape in zip(gradients, shapes, strict=False)]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            soft = ctx.soft
            left = _dense(gradients[2], s, (len(s), 3, s.shape[1]))
            exact = recorded_gradients(
                lambda x: plain.meet(x[0], x[1], soft),  # type: ignore[arg-type]
                (s, both), (*dense, left), ctx.needs_input_grad[2:],
            )  # fmt: skip
            return None, None, *exact
        by_left = None if gradients[2] is None else gradients[2].contiguous()
        by_s, by_both = torch.empty_like(s), torch.empty_like(both)
        tensors = map(pointer, (both, inputs, *dense, by_left, by_s, by_both))
        ctx.loops.meet_back(ctypes.c_long(len(s)), _real(ctx.soft, s), *tensors)
        return None, None, by_s, by_both


class _Change(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, loops: ctypes.CDLL, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        s, v, left, products, mixed = inputs
        ctx.loops, ctx.left = loops, left
        ctx.save_for_backward(*inputs)
        out = torch.empty_like(s, memory_format=torch.contiguous_format), v.new_empty(v.shape)
        dense = [x.contiguous() for x in (s, v)]
        given = (*dense, _beside(left), products.contiguous(), mixed.contiguous(), *out)
        loops.change(ctypes.c_long(len(s)), *map(pointer, given))
        return out

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        s, v, left, products, mixed = ctx.saved_tensors
        if torch.is_grad_enabled():
            exact = recorded_gradients(
                lambda x: plain.change(*x),  # type: ignore[arg-type]
                ctx.saved_tensors, gradients, ctx.needs_input_grad[1:],
            )  # fmt: skip
            return None, *exact
        by_s, by_v = (g.contiguous() for g in gradients)
        found = v.new_empty(v.shape), s.new_empty(s.shape), mixed.new_empty(mixed.shape)
        given = (_beside(left), products.contiguous(), mixed.contiguous(), by_s, by_v, *found)
        ctx.loops.change_back(ctypes.c_long(len(s)), *map(pointer, given))
        return None, by_s, by_v, *found


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, loops: ctypes.CDLL, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.loops = loops
        ctx.save_for_backward(*inputs)
        given = _Given(inputs)
        s, v = given.like_s(), given.like_v()
        loops.gate(*given.arguments(), pointer(s), pointer(v))
        return s, v

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            exact = recorded_gradients(
                lambda x: plain.gate(*x),  # type: ignore[arg-type]
                inputs, gradients, ctx.needs_input_grad[1:],
            )  # fmt: skip
            return None, *exact
        given = _Given(inputs)
        found: list[Tensor | None] = [torch.empty_like(given.x), given.like_s(), given.like_v()]
        own = inputs[3] is not None
        found += [given.like_s(), given.like_v()] if own else [None, None]
        dense = [g.contiguous() for g in gradients]
        ctx.loops.gate_back(*given.arguments(), *map(pointer, (*dense, *found)))
        return None, *found


class _Rows(ctypes.Structure):
    """As in updates.cpp."""

    _fields_ = (("first", ctypes.c_void_p), ("stride", ctypes.c_long))


class _Given:
    """The first arguments of the gate's loops, and the memory behind them."""

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        x, ds, dv, s, v = inputs
        assert x is not None and ds is not None and dv is not None
        self.x, self.ds, self.dv = x.contiguous(), _rowwise(ds), _rowwise(dv)
        self.own = [None if a is None else a.contiguous() for a in (s, v)]
        self._rows = [_Rows(a.data_ptr(), a.stride(0)) for a in (self.ds, self.dv)]

    def arguments(self) -> tuple[object, ...]:
        rows = map(ctypes.byref, self._rows)
        return ctypes.c_long(len(self.x)), pointer(self.x), *rows, *map(pointer, self.own)

    def like_s(self) -> Tensor:
        return self.x.new_empty(self.ds.shape)

    def like_v(self) -> Tensor:
        return self.x.new_empty(self.dv.shape)


def _rowwise(x: Tensor) -> Tensor:
    """The same with each point's numbers one behind the other."""
    return x if x[0:1].is_contiguous() else x.contiguous()


def _beside(left: Tensor) -> Tensor:
    """U (P, 3, H) in a tensor (P, 3, 2 H), as it came from there."""
    if left.stride() == (6 * left.shape[2], 2 * left.shape[2], 1):
        return left
    return torch.cat((left, left), 2)


def _dense(gradient: Tensor | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros(*shape) if gradient is None else gradient.contiguous()


def _real(number: float, like: Tensor) -> ctypes.c_float | ctypes.c_double:
    return (ctypes.c_float if like.dtype == torch.float32 else ctypes.c_double)(number)
