"""One layer of the n-body network as one compiled operation; see fused/nbody_step.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.kernels import compiler as fused

SOURCE = Path(__file__).with_name("nbody_step.cpp")
REALS = {torch.float32: "float", torch.float64: "double"}
# Features of H numbers fill whole vector registers, of 16 float32 at most.
MULTIPLE = 16
# The tile: so many pairs have their rows in a core's cache.
PAIRS = 400


@dataclass(frozen=True)
class Sizes:
    """As in fused/nbody_step.cpp: P points, B systems; receivers begin at point ``first``,
    points that go at ``fixed``; whether features are updated, and whether positions learn; how
    many threads there are."""

    points: int
    systems: int
    first: int
    fixed: int
    update: bool
    pulled: bool
    threads: int


@cache
def _numbers(sizes: Sizes) -> Any:
    """For the library, with the systems in a tile."""
    pairs = (sizes.points - sizes.first) * (sizes.points - 1)
    tile = max(1, min(PAIRS // pairs, -(-sizes.systems // sizes.threads)))
    values = [*astuple(sizes), tile]
    return (ctypes.c_long * len(values))(*values)


@dataclass(frozen=True)
class Seen:
    """What no gradient is wanted of, for all points.

    Attributes:
        start: (P, B, 3) positions that were given.
        charges: (P, B).
        velocities: (P - fixed, B, 3) of the points that go.
    """

    start: Tensor
    charges: Tensor
    velocities: Tensor


def usable(seen: Seen, hidden: int) -> bool:
    """Whether the compiled operation can stand in for PyTorch's here."""
    like = seen.start
    if like.device.type != "cpu" or hidden % MULTIPLE or like.dtype not in REALS:
        return False
    constant = not any(each.requires_grad for each in (like, seen.charges, seen.velocities))
    return constant and _library(like.dtype, hidden) is not None


def step(
    h: Tensor, now: Tensor, seen: Seen, weights: Sequence[Tensor], first: int, fixed: int
) -> tuple[Tensor, Tensor]:
    """Displacements (P - fixed, B, 3) and new features (P, B, H), as `egnn_nbody.Layer` has them.

    Args:
        h: (P, B, H).
        now: (P, B, 3) positions as the layer sees them.
        seen: the rest.
        weights: message, second, push (their biases after them), the push's last one without,
            the drift's two, and, unless this is the last layer, the update's two.
        first, fixed: see :class:`Sizes`.
    """
    points, systems, _ = h.shape
    threads = torch.get_num_threads()
    sizes = Sizes(points, systems, first, fixed, len(weights) > 11, now.requires_grad, threads)
    moved, out = _Step.apply(sizes, seen, h.contiguous(), now.contiguous(), *weights)
    return moved, h if out is None else out


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[each.data_ptr() for each in tensors])


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _library(dtype: torch.dtype, hidden: int) -> ctypes.CDLL | None:
    return fused.library(SOURCE, {"REAL": REALS[dtype], "HIDDEN": hidden})


def _loaded(h: Tensor) -> ctypes.CDLL:
    """The library, where `usable` has said that there is one."""
    found = _library(h.dtype, h.shape[-1])
    assert found is not None
    found.kept.restype = ctypes.c_long
    return found


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sizes: Sizes, seen: Seen, h: Tensor, now: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        call, numbers = _loaded(h), _numbers(sizes)
        inputs = (h, now, seen.start, seen.charges, seen.velocities)
        keep = h.new_empty(call.kept(numbers))
        moved, out = torch.empty_like(seen.velocities), None
        if sizes.update:
            out = torch.empty_like(h)
        call.forward(
            numbers, _pointers(inputs), _pointers(weights), *map(_pointer, (keep, moved, out))
        )
        ctx.numbers, ctx.seen, ctx.threads = numbers, seen, sizes.threads
        ctx.save_for_backward(h, now, keep, *weights)
        return moved, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        h, now, keep, *weights = ctx.saved_tensors
        inputs = (h, now, ctx.seen.start, ctx.seen.charges, ctx.seen.velocities)
        by_moved, by_out = (each if each is None else each.contiguous() for each in gradients)
        by_h, by_now = torch.empty_like(h), torch.zeros_like(now)
        # each thread's own, (threads, ...)
        by_weights = [each.new_zeros(ctx.threads, *each.shape) for each in weights]
        _loaded(h).backward(
            ctx.numbers,
            _pointers(inputs),
            _pointers(weights),
            *map(_pointer, (keep, by_moved, by_out, by_h, by_now)),
            _pointers([each[k] for k in range(ctx.threads) for each in by_weights]),
        )
        summed = (each[0] if ctx.threads == 1 else each.sum(0) for each in by_weights)
        return None, None, by_h, by_now if ctx.needs_input_grad[3] else None, *summed
