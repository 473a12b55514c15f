"""The sum of an output block, h_i = sum_j (C r_ji) * m_ji, as one compiled pass over edges.

In PyTorch's operations C r, its product with m, and on every way back as many more are tensors as
large as all messages. Derivatives of the derivative by r and m are compiled, too; third ones, and
second ones by a way that passes C, are PyTorch's operations. On one thread: atoms are shared.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.graph import segment_sum
from neupol_cli.models.nn.linear import product

SOURCE = Path(__file__).with_name("atom_sums.cpp")
MULTIPLE = 16  # of which H is


def library(m: Tensor) -> ctypes.CDLL | None:
    """The loops for (E, H) messages; None where they do not serve."""
    if m.shape[1] % MULTIPLE or torch.get_num_threads() > 1:
        return None
    return compiler.library_for(SOURCE, m, {})


def plainly(m: Tensor, radial: Tensor, weight: Tensor, receivers: Tensor, points: int) -> Tensor:
    """(E, H) m, (E, N) r, (H, N) C, (E,) -> (points, H) in plain PyTorch."""
    return segment_sum(product(radial, weight) * m, receivers, points)


def compiled(
    loops: ctypes.CDLL, m: Tensor, radial: Tensor, weight: Tensor, receivers: Tensor, points: int
) -> Tensor:
    """The same as one pass."""
    return _Sums.apply(loops, receivers, points, m.contiguous(), radial.contiguous(), weight)


class _Structure(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("edges", "hidden", "numbers", "wide")),
        *((name, ctypes.c_void_p) for name in ("receivers", "radial", "factor", "across")),
    )


class _Held:
    """The loops' first argument, and memory for derivatives.

    Attributes:
        by_m: (E, H).
        by_radial: (E, wide), or None where it is not wanted.
        by_factor: (N, H) by C turned, or None.
    """

    def __init__(
        self, receivers: Tensor, inputs: Sequence[Tensor], needed: Sequence[bool] = ()
    ) -> None:
        m, radial, weight = inputs
        self.numbers = radial.shape[1]
        wide = -(-self.numbers // MULTIPLE) * MULTIPLE
        self.tensors = receivers, radial, weight.t().contiguous(), self._padded(weight, wide)
        sizes = *m.shape, self.numbers, wide
        self.argument = ctypes.byref(_Structure(*sizes, *map(pointer, self.tensors)))
        self.by_m = torch.empty_like(m) if needed else None
        self.by_radial = m.new_empty(len(m), wide) if needed and needed[1] else None
        self.by_factor = m.new_zeros(self.numbers, m.shape[1]) if needed and needed[2] else None

    @staticmethod
    def _padded(weight: Tensor, wide: int) -> Tensor:
        return functional.pad(weight, (0, wide - weight.shape[1])).contiguous()

    def made(self) -> tuple[Tensor | None, ...]:
        return self.by_m, self.by_radial, self.by_factor

    def answers(self) -> tuple[Tensor | None, ...]:
        """By m, r and C."""
        by_radial = None if self.by_radial is None else self.by_radial[:, : self.numbers]
        return self.by_m, by_radial, None if self.by_factor is None else self.by_factor.t()


def _needed(wanted: Sequence[bool], inputs: Sequence[Tensor]) -> list[bool]:
    return [want and gradient_needed(x) for want, x in zip(wanted, inputs, strict=True)]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, loops: ctypes.CDLL, receivers: Tensor, points: int, *inputs: Tensor
    ) -> Tensor:
        ctx.loops, ctx.receivers, ctx.points = loops, receivers.contiguous(), points
        ctx.save_for_backward(*inputs)
        sums = inputs[0].new_zeros(points, inputs[0].shape[1])
        held = _Held(ctx.receivers, inputs)
        loops.sums(held.argument, pointer(inputs[0]), pointer(sums))
        return sums

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        needed = _needed(wanted, inputs)
        if torch.is_grad_enabled() and needed[2]:

            def formula(inputs: list[Tensor | None]) -> Tensor:
                m, radial, weight = (x for x in inputs if x is not None)
                return plainly(m, radial, weight, ctx.receivers, ctx.points)

            return *(None,) * 3, *recorded_gradients(formula, inputs, gradients, wanted)
        g = gradients[0].contiguous()
        back = _Back.apply if torch.is_grad_enabled() else _back
        return *(None,) * 3, *back(ctx.loops, ctx.receivers, needed, g, *inputs)


def _back(
    loops: ctypes.CDLL, receivers: Tensor, needed: Sequence[bool], g: Tensor, *inputs: Tensor
) -> tuple[Tensor | None, ...]:
    """What comes back to m, r and C."""
    held = _Held(receivers, inputs, needed)
    loops.sums_back(held.argument, *map(pointer, (inputs[0], g, *held.made())))
    return held.answers()


class _Back(torch.autograd.Function):
    """What comes back to m and r; none to C."""

    @staticmethod
    def forward(
        ctx: Context,
        loops: ctypes.CDLL,
        receivers: Tensor,
        needed: Sequence[bool],
        g: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.loops, ctx.receivers = loops, receivers
        ctx.save_for_backward(g, *inputs)
        return _back(loops, receivers, needed, g, *inputs)

    @staticmethod
    def backward(ctx: Context, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        (g, *inputs), wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # a third derivative may follow
            answers = _gradients_of_back(ctx.receivers, (g, *inputs), along, wanted)
            return *(None,) * 3, *answers
        pairs = zip(along[:2], inputs[:2], strict=True)
        ways = [torch.zeros_like(x) if u is None else u.contiguous() for u, x in pairs]
        held, by_g = _Held(ctx.receivers, inputs, _needed(wanted[1:], inputs)), torch.zeros_like(g)
        tensors = inputs[0], g, *ways, by_g, *held.made()
        ctx.loops.sums_along(held.argument, *map(pointer, tensors))
        return *(None,) * 3, by_g, *held.answers()


def _gradients_of_back(
    receivers: Tensor,
    inputs: Sequence[Tensor],
    along: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives of :class:`_Back` in PyTorch's operations."""

    def formula(inputs: list[Tensor | None]) -> list[Tensor]:
        g, m, radial, weight = (x for x in inputs if x is not None)
        from_atoms = g.index_select(0, receivers)
        by_m = product(radial, weight) * from_atoms
        by_radial = product(m * from_atoms, weight.t())
        pairs = zip((by_m, by_radial), along, strict=False)
        return [by for by, u in pairs if u is not None]

    return recorded_gradients(formula, inputs, [u for u in along if u is not None], wanted)
