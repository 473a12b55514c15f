"""DimeNet's sum over k as a compiled loop over atoms, with derivatives and derivatives of these.

    t_ji = sum_k t_kj * sum_l F_l(angle_kji) w_kl,   w_kl = sum_n C_ln R_ln(r_kj)

FanBasis writes w, its product with t and their gradients for all slots of a fan to memory; here an
atom's own stay in the cache. Third derivatives, and second ones by a way that passes C, are
FanBasis's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed

SOURCE = Path(__file__).with_name("fan_loops.cpp")
MULTIPLE = 16  # of which T is
VALUES, WIDE, RADIAL, ANGULAR = 0, 1, 2, 3  # inputs: t, C, R, and from there on F of each fan


def library(basis: FanBasis, width: int) -> ctypes.CDLL | None:
    """The loops for T = ``width`` numbers of the basis's type; None where they do not serve."""
    return None if width % MULTIPLE else compiler.library_for(SOURCE, basis.arriving, {})


class FanLoops:
    """The angular basis in fans, summed by loops."""

    def __init__(self, basis: FanBasis, loops: ctypes.CDLL) -> None:
        self.basis, self.loops = basis, loops
        triplets = basis.triplets
        self.angular = [block.contiguous() for block in basis.angular]
        self.radial = basis.arriving.contiguous()
        slots = triplets.arrival, triplets.departure
        # What the structure of pointers below points to is to last as long.
        self.edges = [_edges_at(slot, triplets.size) for slot in slots]
        self.shape = torch.tensor([block.shape[:2] for block in self.angular]).t().contiguous()

    def turned(self, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """As :meth:`AngularBasis.turned`."""
        to_wide = (wide @ narrow).t().contiguous()  # C (L N, T)
        return _Turned.apply(self, t.contiguous(), to_wide, self.radial, *self.angular)

    def plainly(self, inputs: Sequence[Tensor | None]) -> Tensor:
        """The sum of t, C, R and F in PyTorch's operations."""
        t, to_wide, radial, *angular = (x for x in inputs if x is not None)
        basis = replace(self.basis, arriving=radial, angular=angular)
        return basis.turned(t, to_wide.t(), torch.eye(t.shape[1], dtype=t.dtype))

    def pointers(
        self, inputs: Sequence[Tensor], made: Made, along: Sequence[Tensor] = ()
    ) -> object:
        """The loops' first argument; what it points to is to last as long as the call."""
        to_wide, radial, *angular = inputs[WIDE:]
        L, width = self.basis.degrees, to_wide.shape[1]
        N = len(to_wide) // L
        wide = -(-N // MULTIPLE) * MULTIPLE
        turned = to_wide.view(L, N, width).transpose(1, 2)
        made.across = functional.pad(turned, (0, wide - N)).contiguous()
        sizes = len(angular), L, N, width, torch.get_num_threads(), wide
        tensors = *self.edges, radial, to_wide, made.across, along[1] if along else None
        pointers = map(pointer, (*self.shape, *tensors, made.by_radial))
        atoms, slots, arriving, leaving, *rest, by_radial = pointers
        return ctypes.byref(
            _Fans(
                *sizes, atoms, slots, _blocks(angular), arriving, leaving, *rest,
                _blocks(along[2:]), by_radial, _blocks(made.by_angular),
            )
        )  # fmt: skip


class Made:
    """Memory for the derivatives that the loops make; zero in empty slots.

    Attributes:
        by_t: (E, T).
        by_wide: (threads, L N, T), or None where no derivative by C is wanted; so with the others.
        by_radial: (S, L N).
        by_angular: as F of each fan; empty if unwanted.
        across: (L, T, wide) C turned, with zeros.
    """

    def __init__(self, inputs: Sequence[Tensor], needed: Sequence[bool]) -> None:
        t, to_wide, radial, *angular = inputs
        threads = torch.get_num_threads()
        self.by_t = torch.empty_like(t)
        self.by_wide = to_wide.new_zeros(threads, *to_wide.shape) if needed[WIDE] else None
        self.by_radial = torch.zeros_like(radial) if needed[RADIAL] else None
        self.by_angular = [torch.zeros_like(x) for x in angular] if any(needed[ANGULAR:]) else []
        self.across: Tensor | None = None
        self.fans = len(angular)

    def answers(self) -> tuple[Tensor | None, ...]:
        """By t, C, R and F."""
        by_wide = None if self.by_wide is None else self.by_wide.sum(0)
        by_angular: Sequence[Tensor | None] = self.by_angular or [None] * self.fans
        return self.by_t, by_wide, self.by_radial, *by_angular


class _Fans(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("count", "degrees", "numbers", "width", "threads")),
        ("wide", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("atoms", "slots")),
        ("angular", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("arriving", "leaving", "radial", "to_wide")),
        *((name, ctypes.c_void_p) for name in ("across", "along_radial")),
        ("along_angular", ctypes.POINTER(ctypes.c_void_p)),
        ("by_radial", ctypes.c_void_p),
        ("by_angular", ctypes.POINTER(ctypes.c_void_p)),
    )


def _blocks(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p] | None:
    """Where the numbers of each fan begin; None without any."""
    if not tensors:
        return None
    return (ctypes.c_void_p * len(tensors))(*map(torch.Tensor.data_ptr, tensors))


def _edges_at(slot: Tensor, size: int) -> Tensor:
    """(E,) the slot of each edge -> (S,) the edge of each slot, -1 in an empty one."""
    edges = torch.arange(len(slot), device=slot.device)
    return slot.new_full((size,), -1).index_copy(0, slot, edges)


class _Turned(torch.autograd.Function):
    """The sum, of t, C, R and F."""

    @staticmethod
    def forward(ctx: Context, fans: FanLoops, *inputs: Tensor) -> Tensor:
        ctx.fans = fans
        ctx.save_for_backward(*inputs)
        out, made = torch.empty_like(inputs[VALUES]), Made(inputs, [False] * len(inputs))
        fans.loops.summed(fans.pointers(inputs, made), pointer(inputs[VALUES]), pointer(out))
        return out

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        fans: FanLoops = ctx.fans
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        needed = [want and gradient_needed(x) for want, x in zip(wanted, inputs, strict=True)]
        (g,) = gradients
        if not torch.is_grad_enabled():
            return None, *_back(fans, inputs, g.contiguous(), needed)
        # Somebody will differentiate the gradient.
        if needed[WIDE]:
            return None, *recorded_gradients(fans.plainly, inputs, gradients, wanted)
        return None, *_Back.apply(fans, needed, g.contiguous(), *inputs)


def _back(
    fans: FanLoops, inputs: Sequence[Tensor], g: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """What comes back to t, C, R and F."""
    made = Made(inputs, needed)
    tensors = map(pointer, (inputs[VALUES], g, made.by_t, made.by_wide))
    fans.loops.summed_back(fans.pointers(inputs, made), *tensors)
    return made.answers()


class _Back(torch.autograd.Function):
    """What comes back to t, R and F; none to C."""

    @staticmethod
    def forward(
        ctx: Context, fans: FanLoops, needed: Sequence[bool], g: Tensor, *inputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.fans = fans
        ctx.save_for_backward(g, *inputs)
        return _back(fans, inputs, g, needed)

    @staticmethod
    def backward(ctx: Context, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        fans: FanLoops = ctx.fans
        (g, *inputs), wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a third derivative may follow
            return None, None, *_gradients_of_back(fans, (g, *inputs), along, wanted)
        pairs = zip(along, inputs, strict=True)
        directions = [torch.zeros_like(x) if u is None else u.contiguous() for u, x in pairs]
        needed = [want and gradient_needed(x) for want, x in zip(wanted[1:], inputs, strict=True)]
        made, by_g = Made(inputs, needed), torch.empty_like(g)
        tensors = inputs[VALUES], directions[VALUES], g, by_g, made.by_t, made.by_wide
        pointers = fans.pointers(inputs, made, directions[WIDE:])
        fans.loops.summed_along(pointers, *map(pointer, tensors))
        return None, None, by_g, *made.answers()


def _gradients_of_back(
    fans: FanLoops,
    inputs: Sequence[Tensor],
    along: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives of :class:`_Back` in PyTorch's operations."""

    def formula(inputs: list[Tensor | None]) -> Sequence[Tensor]:
        g, *rest = inputs
        at = [x for x, u in zip(rest, along, strict=True) if u is not None and x is not None]
        return torch.autograd.grad(fans.plainly(rest), at, g, create_graph=True)

    return recorded_gradients(formula, inputs, [u for u in along if u is not None], wanted)
