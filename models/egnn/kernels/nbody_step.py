"""One layer of the n-body network as one compiled operation; see nbody_step.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.nn.linear import Perceptron

SOURCE = Path(__file__).with_name("nbody_step.cpp")
# Features of H numbers fill whole vector registers, of 16 float32 at most.
MULTIPLE = 16
# The tile: so many pairs have their rows in a core's cache.
PAIRS = 400


@dataclass(frozen=True)
class Sizes:
    """As in nbody_step.cpp: P points, B systems; receivers begin at point ``first``,
    points that move at ``fixed``; whether features are updated, and whether positions learn; how
    many threads there are."""

    points: int
    systems: int
    first: int
    fixed: int
    update: bool
    pulled: bool
    threads: int


@cache
def _numbers(sizes: Sizes) -> ctypes.Array[ctypes.c_long]:
    """For the library, with the systems in a tile."""
    pairs = (sizes.points - sizes.first) * (sizes.points - 1)
    tile = max(1, min(PAIRS // pairs, -(-sizes.systems // sizes.threads)))
    values = [*astuple(sizes), tile]
    return (ctypes.c_long * len(values))(*values)


# What no gradient is wanted of: (P, B, 3) positions and (P, B) charges as given, of all points, and
# (P - fixed, B, 3) velocities of the points that move.
Constants = tuple[Tensor, Tensor, Tensor]


def library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    """The compiled operation for numbers like these and H features, or None where it is not."""
    return None if hidden % MULTIPLE else compiler.library_for(SOURCE, like, {"HIDDEN": hidden})


def step(
    h: Tensor, x: Tensor, constants: Constants, weights: Sequence[Tensor], first: int, fixed: int
) -> tuple[Tensor, Tensor]:
    """Displacements (P - fixed, B, 3) and new features (P, B, H), as nbody.py's layer has them.

    Args:
        h: (P, B, H).
        x: (P, B, 3) positions as the layer sees them.
        constants: see :data:`Constants`.
        weights: phi_e's two and phi_x's first (biases after them), phi_x's last one without,
            phi_v's two, and, unless this is the last layer, phi_h's two; see :func:`weights`.
        first, fixed: see :class:`Sizes`.
    """
    points, systems, _ = h.shape
    threads = torch.get_num_threads()
    sizes = Sizes(points, systems, first, fixed, len(weights) > 11, x.requires_grad, threads)
    # An operation of PyTorch's own takes its time, where nobody goes back as well.
    stepped = _Step.apply if torch.is_grad_enabled() else _stepped
    displacements, out = stepped(sizes, constants, h.contiguous(), x.contiguous(), *weights)
    return displacements, h if out is None else out


def weights(
    phi_e: Perceptron, phi_x: Perceptron, phi_v: Perceptron, phi_h: Perceptron | None
) -> list[Tensor]:
    """A layer's weights in the order of :func:`step`."""
    before = [phi_e.first, phi_e.second, phi_x.first]
    after = [phi_v.first, phi_v.second]
    if phi_h is not None:
        after += [phi_h.first, phi_h.second]
    ordered = [w for linear in before for w in (linear.weight, linear.bias)]
    ordered.append(phi_x.second.weight)
    return ordered + [w for linear in after for w in (linear.weight, linear.bias)]


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _loaded(h: Tensor) -> ctypes.CDLL:
    """The library, where kernels/choice.py has seen that there is one."""
    loops = library(h, h.shape[-1])
    assert loops is not None
    loops.saved.restype = ctypes.c_long
    return loops


def _stepped(
    sizes: Sizes,
    constants: Constants,
    h: Tensor,
    x: Tensor,
    *weights: Tensor,
    saved: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Displacements and new features; what the derivative needs goes to ``saved``."""
    displacements, out = torch.empty_like(constants[2]), None
    if sizes.update:
        out = torch.empty_like(h)
    tensors = (_pointers((h, x, *constants)), _pointers(weights))
    _loaded(h).forward(_numbers(sizes), *tensors, *map(_pointer, (saved, displacements, out)))
    return displacements, out


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, sizes: Sizes, constants: Constants, h: Tensor, x: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        numbers = _numbers(sizes)
        saved = h.new_empty(_loaded(h).saved(numbers))
        displacements, out = _stepped(sizes, constants, h, x, *weights, saved=saved)
        ctx.numbers, ctx.constants, ctx.threads = numbers, constants, sizes.threads
        ctx.save_for_backward(h, x, saved, *weights)
        return displacements, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        h, x, saved, *weights = ctx.saved_tensors
        by_displacements, by_out = (g if g is None else g.contiguous() for g in gradients)
        by_h, by_x = torch.empty_like(h), torch.zeros_like(x)
        # each thread's own, (threads, ...)
        by_weights = [w.new_zeros(ctx.threads, *w.shape) for w in weights]
        _loaded(h).backward(
            ctx.numbers,
            _pointers((h, x, *ctx.constants)),
            _pointers(weights),
            *map(_pointer, (saved, by_displacements, by_out, by_h, by_x)),
            _pointers([w[k] for k in range(ctx.threads) for w in by_weights]),
        )
        summed = (w[0] if ctx.threads == 1 else w.sum(0) for w in by_weights)
        return None, None, by_h, by_x if ctx.needs_input_grad[3] else None, *summed
