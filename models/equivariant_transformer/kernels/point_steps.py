"""The equivariant transformer's steps at points (attention.py) in compiled loops.

One PyTorch operation after another they are some eighty with their first and second derivatives;
vector_update.cpp makes one pass over points of each. Third derivatives come from attention.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.equivariant_transformer.attention import scaled, updated
from neupol_cli.models.equivariant_transformer.kernels.second_derivative import second_derivative
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context

SOURCE = Path(__file__).with_name("vector_update.cpp")


class Points(ctypes.Structure):
    """The struct of the same name: counts, and pointers to contiguous numbers."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("points", "threads")),
        *((name, ctypes.c_void_p) for name in ("o", "w", "o_t", "w_t", "y_t")),
        *((name, ctypes.c_void_p) for name in ("v", "v_t", "f", "f_t", "gradient")),
        *((name, ctypes.c_void_p) for name in ("state", "s", "y")),
        *((name, ctypes.c_void_p) for name in ("by_o", "by_w", "by_y", "by_v", "by_f")),
    ]


def library(like: Tensor) -> ctypes.CDLL | None:
    """The loops for states (P, 4 H) of this width and type, or None where there are none."""
    return compiler.library_for(SOURCE, like, {"HIDDEN": like.shape[1] // 4})


class Unpacked(torch.autograd.Function):
    """Scalars and vectors of a state; its derivative is :class:`Packed`."""

    @staticmethod
    def forward(ctx: Context, library: ctypes.CDLL, state: Tensor) -> tuple[Tensor, Tensor]:
        ctx.library, hidden = library, state.shape[1] // 4
        s = state.new_empty(len(state), hidden)
        v = state.new_empty(len(state), 3, hidden)
        _call(library.unpack, state=state, s=s, y=v)
        return s, v

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, Packed.apply(ctx.library, *gradients)


class Packed(torch.autograd.Function):
    """The state of scalars and vectors; its derivative is :class:`Unpacked`."""

    @staticmethod
    def forward(ctx: Context, library: ctypes.CDLL, s: Tensor, v: Tensor) -> Tensor:
        ctx.library = library
        state = s.new_empty(len(s), 4 * s.shape[1])
        _call(library.pack, state=state, s=s, y=v)
        return state

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *Unpacked.apply(ctx.library, gradients[0])


class Scaled(torch.autograd.Function):
    """v f; its derivative is :class:`_ScaledGradient`."""

    @staticmethod
    def forward(ctx: Context, library: ctypes.CDLL, v: Tensor, f: Tensor) -> Tensor:
        ctx.library = library
        ctx.save_for_backward(v, f)
        y = _new(v)
        _call(library.scale, v=v, f=f, y=y)
        return y

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_ScaledGradient.apply(ctx.library, *gradients, *ctx.saved_tensors)


class _ScaledGradient(torch.autograd.Function):
    """The derivative of sum(gradient * v f) by v and f."""

    @staticmethod
    def forward(
        ctx: Context, library: ctypes.CDLL, gradient: Tensor, v: Tensor, f: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.library = library
        ctx.save_for_backward(gradient, v, f)
        by_v, by_f = _new(v), _new(f)
        _call(library.scale_first, v=v, f=f, gradient=gradient, by_v=by_v, by_f=by_f)
        return by_v, by_f

    @staticmethod
    def backward(ctx: Context, *rates: Tensor) -> tuple[Tensor | None, ...]:
        gradient, v, f = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *second_derivative(scaled, (gradient,), (v, f), rates)
        by_gradient, by_v, by_f = _new(gradient), _new(v), _new(f)
        given = {"v": v, "f": f, "gradient": gradient, "v_t": rates[0], "f_t": rates[1]}
        _call(ctx.library.scale_second, **given, y=by_gradient, by_v=by_v, by_f=by_f)
        return None, by_gradient, by_v, by_f


class Updated(torch.autograd.Function):
    """The next state; its derivative is :class:`_UpdateGradient`."""

    @staticmethod
    def forward(
        ctx: Context, library: ctypes.CDLL, state: Tensor, o: Tensor, w: Tensor, y: Tensor
    ) -> Tensor:
        ctx.library = library
        ctx.save_for_backward(o, w, y)
        after = state.clone(memory_format=torch.contiguous_format)
        _call(library.add, o=o, w=w, y=y, state=after)
        return after

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_parts = _UpdateGradient.apply(ctx.library, *gradients, *ctx.saved_tensors)
        return None, *gradients, *by_parts


class _UpdateGradient(torch.autograd.Function):
    """The derivative of sum(gradient * next state) by o, w and y."""

    @staticmethod
    def forward(
        ctx: Context, library: ctypes.CDLL, gradient: Tensor, o: Tensor, w: Tensor, y: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.library = library
        ctx.save_for_backward(gradient, o, w, y)
        by_o, by_w, by_y = _new(o), _new(w), _new(y)
        given = {"o": o, "w": w, "gradient": gradient}
        _call(library.add_first, **given, by_o=by_o, by_w=by_w, by_y=by_y)
        return by_o, by_w, by_y

    @staticmethod
    def backward(ctx: Context, *rates: Tensor) -> tuple[Tensor | None, ...]:
        gradient, o, w, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (torch.zeros_like(gradient), o, w, y)  # the state itself only passes through
            by_gradient, _, *rest = second_derivative(updated, (gradient,), inputs, (None, *rates))
            return None, by_gradient, *rest
        by_gradient, by_o, by_w = gradient.new_zeros(gradient.shape), _new(o), _new(w)
        given = {"o": o, "w": w, "gradient": gradient}
        given |= {"o_t": rates[0], "w_t": rates[1], "y_t": rates[2]}
        _call(ctx.library.add_second, **given, state=by_gradient, by_o=by_o, by_w=by_w)
        return None, by_gradient, by_o, by_w, None


def _new(like: Tensor) -> Tensor:
    """Contiguous, whatever the other one is: C writes to it."""
    return like.new_empty(like.shape)


def _call(function: Callable[..., object], **tensors: Tensor) -> None:
    """Runs over all points; what C writes to has to be contiguous."""
    passed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    places = {name: tensor.data_ptr() for name, tensor in passed.items()}
    points = len(next(iter(passed.values())))
    function(ctypes.byref(Points(points=points, threads=torch.get_num_threads(), **places)))
