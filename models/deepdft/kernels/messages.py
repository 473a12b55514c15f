"""PaiNN's messages and their derivative, compiled: one pass over the edges each, with filters."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer, threads
from neupol_cli.models.nn.linear import product

SOURCE = Path(__file__).with_name("messages.cpp")
MULTIPLE = 16  # of which features are


@dataclass(frozen=True)
class Ends:
    """Whom the edges of a step of training join, in any order.

    Attributes:
        senders, receivers: (E,) indices of points.
        directions: (E, 3) to the receiver.
        count: R receivers.
        mutual: how many edges, the first ones, carry a message the other way, too.
    """

    senders: Tensor
    receivers: Tensor
    directions: Tensor
    count: int
    mutual: int = 0

    def dense(self) -> Ends:
        """The same, every tensor's numbers one behind the other."""
        tensors = (self.senders, self.receivers, self.directions)
        senders, receivers, directions = (tensor.contiguous() for tensor in tensors)
        return Ends(senders, receivers, directions, self.count, self.mutual)

    def turned(self) -> Ends:
        """The other way of those that are there both ways."""
        both = slice(self.mutual)
        there = self.senders[both], self.receivers[both]
        return Ends(there[1], there[0], -self.directions[both], self.count)


def library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    """The compiled loops for features like these; None where they do not serve."""
    if like.device.type != "cpu" or like.dtype != torch.float32 or hidden % MULTIPLE:
        return None
    return compiler.library(SOURCE, {"HIDDEN": hidden, "REAL": "float"})


def compiled_messages(
    basis: Tensor, weight: Tensor, offers: Tensor, ends: Ends, loops: ctypes.CDLL
) -> tuple[Tensor, Tensor]:
    """The sums of painn.py's ``summed_messages``, once differentiable by all that are numbers.

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
        ends = replace(ends, directions=directions).dense()
        basis, turned, offers = basis.contiguous(), weight.t().contiguous(), offers.contiguous()
        out = offers.new_zeros(ends.count, 4, offers.shape[2])
        ctx.ends, ctx.loops = ends, loops
        ctx.save_for_backward(basis, turned, offers)
        loops.messages(*_arguments(ends, basis, turned), pointer(offers), pointer(out))
        return out[:, 0], out[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        basis, turned, offers = ctx.saved_tensors
        by_out = torch.cat((gradients[0][:, None], gradients[1]), 1)  # (R, 4, H)
        by_turned, by_offers = torch.zeros_like(turned), torch.zeros_like(offers)
        through, _, _, along, *_ = ctx.needs_input_grad
        edges, many = len(basis), torch.get_num_threads()
        by_filters = basis.new_empty(edges, turned.shape[1]) if through else None
        by_directions = basis.new_zeros(many, edges, 3) if along else None
        tensors = (offers, by_out, by_turned, by_offers, by_filters, by_directions)
        ctx.loops.messages_back(*_arguments(ctx.ends, basis, turned), *map(pointer, tensors))
        by_basis = None if by_filters is None else product(by_filters, turned)
        turning = None if by_directions is None else by_directions.sum(0)
        return by_basis, by_turned.t(), by_offers, turning, None, None


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


def _arguments(ends: Ends, basis: Tensor, turned: Tensor) -> tuple[object, ...]:
    """The first arguments of both loops; ``turned`` (K, 3 H) is the filters' weight."""
    tensors = (ends.senders, ends.receivers, ends.directions)
    places = _Ends(len(ends.senders), ends.mutual, *(tensor.data_ptr() for tensor in tensors))
    filters = _Filters(len(turned), basis.data_ptr(), turned.data_ptr())
    return threads(), ctypes.byref(places), ctypes.byref(filters)
