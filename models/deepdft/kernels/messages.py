"""PaiNN's messages and their derivative in one pass over the edges each, compiled."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer, threads


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


def compiled_messages(
    filters: Tensor, offers: Tensor, ends: Ends, library: ctypes.CDLL
) -> tuple[Tensor, Tensor]:
    """The sums of painn.py's ``summed_messages``, once differentiable by filters and offers."""
    ds, dv = _Messages.apply(filters, offers, ends.dense(), library)
    return ds, dv


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, filters: Tensor, offers: Tensor, ends: Ends, library: ctypes.CDLL
    ) -> tuple[Tensor, Tensor]:
        filters, offers = filters.contiguous(), offers.contiguous()
        out = offers.new_zeros(ends.count, 4, offers.shape[2])
        ctx.ends, ctx.library = ends, library
        ctx.save_for_backward(filters, offers)
        library.messages(*_arguments(ends), pointer(filters), pointer(offers), pointer(out))
        return out[:, 0], out[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        filters, offers = ctx.saved_tensors
        by_out = torch.cat((gradients[0][:, None], gradients[1]), 1)  # (R, 4, H)
        by_filters, by_offers = torch.empty_like(filters), torch.zeros_like(offers)
        tensors = (filters, offers, by_out, by_filters, by_offers)
        ctx.library.messages_back(*_arguments(ctx.ends), *map(pointer, tensors))
        return by_filters, by_offers, None, None


class _Ends(ctypes.Structure):
    """As in deepdft_edges.cpp."""

    _fields_ = (
        ("edges", ctypes.c_long),
        ("mutual", ctypes.c_long),
        ("senders", ctypes.c_void_p),
        ("receivers", ctypes.c_void_p),
        ("directions", ctypes.c_void_p),
    )


def _arguments(ends: Ends) -> tuple[object, ...]:
    """The first arguments of both loops."""
    tensors = (ends.senders, ends.receivers, ends.directions)
    places = _Ends(ends.senders.shape[0], ends.mutual, *(tensor.data_ptr() for tensor in tensors))
    return threads(), ctypes.byref(places)
