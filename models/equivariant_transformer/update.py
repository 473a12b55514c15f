"""What the equivariant transformer does at points, beside its products, and its state's layouts.

    w = v f;   s += <w1, w2> o2 + o3,  V += w3 o1 + Y     (Tholke and de Fabritiis 2022, eqs. 11-12)

Between layers a state is (P, 4 H): H scalars, then H vectors (H, 3), as irreps have them. Matrix
products want vectors as (3, H). The formulas are written here one PyTorch operation after another,
some eighty with their first and second derivatives; fused/vector_update.cpp makes one pass over
points of each. Third derivatives come from the formulas.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neupol_cli.models.kernels import compiler as fused

SOURCE = Path(__file__).parent / "kernels" / "vector_update.cpp"


class Points(ctypes.Structure):
    """The struct of the same name: counts, and pointers to contiguous numbers."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("points", "threads")),
        *((name, ctypes.c_void_p) for name in ("o", "w", "o_t", "w_t", "y_t")),
        *((name, ctypes.c_void_p) for name in ("v", "v_t", "f", "f_t", "gradient")),
        *((name, ctypes.c_void_p) for name in ("state", "s", "y")),
        *((name, ctypes.c_void_p) for name in ("by_o", "by_w", "by_y", "by_v", "by_f")),
    ]


def unpacked(state: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 4 H) -> scalars (P, H), vectors (P, 3, H)."""
    return _Unpacked.apply(state)


def packed(s: Tensor, v: Tensor) -> Tensor:
    """The reverse."""
    return _Packed.apply(s, v)


def scaled(v: Tensor, f: Tensor) -> Tensor:
    """(P, 3, H) vectors times (P, H) factors."""
    library = _library(v, f.shape[1])
    return plain_scaled(v, f) if library is None else _Scaled.apply(library, v, f)


def plain_scaled(v: Tensor, f: Tensor) -> Tensor:
    """The formula."""
    return v * f[:, None]


def update(state: Tensor, o: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The next state (P, 4 H).

    Args:
        state: (P, 4 H).
        o: (P, 3 H) o1, o2, o3.
        w: (P, 3, 3 H) w1, w2, w3 of each component.
        y: (P, 3, H) Y.
    """
    library = _library(state, y.shape[2])
    if library is None:
        return state + plain_update(o, w, y)
    return _Update.apply(library, state, o, w, y)


def plain_update(o: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """(P, 4 H) the formula of what is added."""
    o1, o2, o3 = o.chunk(3, 1)
    w1, w2, w3 = w.chunk(3, 2)
    return packed((w1 * w2).sum(1) * o2 + o3, w3 * o1[:, None] + y)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = state.shape[1] // 4
        library = _library(state, hidden)
        if library is None:
            v = state[:, hidden:].unflatten(1, (hidden, 3)).transpose(1, 2)
            return state[:, :hidden].clone(), v.contiguous()
        s = state.new_empty(len(state), hidden)
        v = state.new_empty(len(state), 3, hidden)
        _call(library.unpack, state=state, s=s, y=v)
        return s, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return packed(*gradients)


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, v: Tensor) -> Tensor:
        library = _library(s, s.shape[1])
        if library is None:
            return torch.cat((s, v.transpose(1, 2).flatten(1)), 1)
        state = s.new_empty(len(s), 4 * s.shape[1])
        _call(library.pack, state=state, s=s, y=v)
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return unpacked(gradients[0])


class _Scaled(torch.autograd.Function):
    """v f; its derivative is :class:`_ScaledGradient`."""

    @staticmethod
    def forward(ctx: Any, library: ctypes.CDLL, v: Tensor, f: Tensor) -> Tensor:
        ctx.library = library
        ctx.save_for_backward(v, f)
        y = _new(v)
        _call(library.scale, v=v, f=f, y=y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_ScaledGradient.apply(ctx.library, *gradients, *ctx.saved_tensors)


class _ScaledGradient(torch.autograd.Function):
    """The derivative of sum(gradient * v f) by v and f."""

    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, gradient: Tensor, v: Tensor, f: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.library = library
        ctx.save_for_backward(gradient, v, f)
        by_v, by_f = _new(v), _new(f)
        _call(library.scale_first, v=v, f=f, gradient=gradient, by_v=by_v, by_f=by_f)
        return by_v, by_f

    @staticmethod
    def backward(ctx: Any, *rates: Tensor) -> tuple[Tensor | None, ...]:
        gradient, v, f = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_plain_second(plain_scaled, (v, f), gradient, rates)
        by_gradient, by_v, by_f = _new(gradient), _new(v), _new(f)
        given = {"v": v, "f": f, "gradient": gradient, "v_t": rates[0], "f_t": rates[1]}
        _call(ctx.library.scale_second, **given, y=by_gradient, by_v=by_v, by_f=by_f)
        return None, by_gradient, by_v, by_f


class _Update(torch.autograd.Function):
    """The next state; its derivative is :class:`_UpdateGradient`."""

    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, state: Tensor, o: Tensor, w: Tensor, y: Tensor
    ) -> Tensor:
        ctx.library = library
        ctx.save_for_backward(o, w, y)
        after = state.clone(memory_format=torch.contiguous_format)
        _call(library.add, o=o, w=w, y=y, state=after)
        return after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_parts = _UpdateGradient.apply(ctx.library, *gradients, *ctx.saved_tensors)
        return None, *gradients, *by_parts


class _UpdateGradient(torch.autograd.Function):
    """The derivative of sum(gradient * next state) by o, w and y."""

    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, gradient: Tensor, o: Tensor, w: Tensor, y: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.library = library
        ctx.save_for_backward(gradient, o, w, y)
        by_o, by_w, by_y = _new(o), _new(w), _new(y)
        given = {"o": o, "w": w, "gradient": gradient}
        _call(library.add_first, **given, by_o=by_o, by_w=by_w, by_y=by_y)
        return by_o, by_w, by_y

    @staticmethod
    def backward(ctx: Any, *rates: Tensor) -> tuple[Tensor | None, ...]:
        gradient, o, w, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_plain_second(plain_update, (o, w, y), gradient, rates)
        by_gradient, by_o, by_w = gradient.new_zeros(gradient.shape), _new(o), _new(w)
        given = {"o": o, "w": w, "gradient": gradient}
        given |= {"o_t": rates[0], "w_t": rates[1], "y_t": rates[2]}
        _call(ctx.library.add_second, **given, state=by_gradient, by_o=by_o, by_w=by_w)
        return None, by_gradient, by_o, by_w, None


def _plain_second(
    formula: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    gradient: Tensor,
    rates: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """The derivative of sum(first derivatives * rates), by the gradient and inputs, recorded."""
    given, *own = (fresh(each) for each in (gradient, *inputs))
    firsts = torch.autograd.grad(formula(*own), own, given, create_graph=True)
    return list(
        torch.autograd.grad(firsts, (given, *own), rates, create_graph=True, allow_unused=True)
    )


def fresh(tensor: Tensor) -> Tensor:
    """The same numbers as a variable of their own: the gradient may depend on the inputs, and a
    derivative by these, taken at the tensors themselves, would go through it a second time."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def _library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    return fused.library_for(SOURCE, like, {"HIDDEN": hidden})


def _new(like: Tensor) -> Tensor:
    """Contiguous, whatever the other one is: C writes to it."""
    return like.new_empty(like.shape)


def _call(function: Any, **tensors: Tensor) -> None:
    """Runs over all points; what C writes to has to be contiguous."""
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    places = {name: tensor.data_ptr() for name, tensor in kept.items()}
    points = len(next(iter(kept.values())))
    function(ctypes.byref(Points(points=points, threads=torch.get_num_threads(), **places)))
