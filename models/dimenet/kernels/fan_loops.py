"""DimeNet's sum over k as a compiled loop over atoms, where distances and angles are constants.

    t_ji = sum_k t_kj * sum_l F_l(angle_kji) w_kl,   w_kl = sum_n C_ln R_ln(r_kj)

FanBasis writes w, its product with t and their gradients for all slots of a fan to memory; here an
atom's own stay in the cache. Derivatives by distances and angles (forces, learned encodings) and
derivatives of derivatives are FanBasis's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients

SOURCE = Path(__file__).with_name("fan_loops.cpp")
MULTIPLE = 16  # of which T is


def library(basis: FanBasis, width: int) -> ctypes.CDLL | None:
    """The loops for T = ``width`` numbers of the basis's type; None where they do not serve."""
    recorded = any(x.requires_grad for x in (basis.arriving, *basis.angular))
    if width % MULTIPLE or (recorded and torch.is_grad_enabled()):
        return None
    return compiler.library_for(SOURCE, basis.arriving, {})


class FanLoops:
    """The angular basis in fans, summed by loops."""

    def __init__(self, basis: FanBasis, loops: ctypes.CDLL) -> None:
        self.basis, self.loops = basis, loops
        triplets = basis.triplets
        # What the structure of pointers below points to is to last as long.
        self.angular = [block.contiguous() for block in basis.angular]
        self.radial = basis.arriving.contiguous()
        slots = triplets.arrival, triplets.departure
        self.edges = [_edges_at(slot, triplets.size) for slot in slots]
        self.shape = torch.tensor([block.shape[:2] for block in self.angular]).t().contiguous()

    def turned(self, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """As :meth:`AngularBasis.turned`."""
        return _Turned.apply(self, t, narrow, wide)

    def summed(self, t: Tensor, to_wide: Tensor) -> Tensor:
        """(E, T), C (L N, T) -> (E, T); not differentiable."""
        t, out = t.contiguous(), torch.empty_like(t, memory_format=torch.contiguous_format)
        self.loops.summed(self._fans(to_wide), pointer(t), pointer(out))
        return out

    def gradients(self, t: Tensor, to_wide: Tensor, by_sum: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives by t and by C."""
        t, by_sum = t.contiguous(), by_sum.contiguous()
        by_t = torch.empty_like(t)
        by_wide = to_wide.new_zeros(torch.get_num_threads(), *to_wide.shape)
        tensors = map(pointer, (t, by_sum, by_t, by_wide))
        self.loops.summed_back(self._fans(to_wide), *tensors)
        return by_t, by_wide.sum(0)

    def _fans(self, to_wide: Tensor) -> object:
        """The loops' first argument."""
        L, T = self.basis.degrees, to_wide.shape[1]
        sizes = len(self.angular), L, len(to_wide) // L, T, torch.get_num_threads()
        blocks = (ctypes.c_void_p * len(self.angular))(*map(torch.Tensor.data_ptr, self.angular))
        tensors = map(pointer, (*self.edges, self.radial, to_wide))
        return ctypes.byref(_Fans(*sizes, *map(pointer, self.shape), blocks, *tensors))


class _Fans(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("count", "degrees", "numbers", "width", "threads")),
        *((name, ctypes.c_void_p) for name in ("atoms", "slots")),
        ("angular", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("arriving", "leaving", "radial", "to_wide")),
    )


def _edges_at(slot: Tensor, size: int) -> Tensor:
    """(E,) the slot of each edge -> (S,) the edge of each slot, -1 in an empty one."""
    edges = torch.arange(len(slot), device=slot.device)
    return slot.new_full((size,), -1).index_copy(0, slot, edges)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, fans: FanLoops, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        ctx.fans = fans
        ctx.save_for_backward(t, narrow, wide)
        return fans.summed(t, _joined(narrow, wide))

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, narrow, wide = ctx.saved_tensors
        fans: FanLoops = ctx.fans
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            wanted = ctx.needs_input_grad[1:]
            return None, *recorded_gradients(
                lambda x: fans.basis.turned(*_given(x)), (t, narrow, wide), gradients, wanted
            )
        by_t, by_wide = fans.gradients(t, _joined(narrow, wide), gradients[0])
        return None, by_t, wide.t() @ by_wide.t(), by_wide.t() @ narrow.t()


def _joined(narrow: Tensor, wide: Tensor) -> Tensor:
    """C (L N, T), which is W_2 W_1 turned."""
    return (wide @ narrow).t().contiguous()


def _given(inputs: Sequence[Tensor | None]) -> list[Tensor]:
    return [x for x in inputs if x is not None]
