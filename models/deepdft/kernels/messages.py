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
    """

    senders: Tensor
    receivers: Tensor
    directions: Tensor
    count: int

    def dense(self) -> Ends:
        """The same, every tensor's numbers one behind the other."""
        tensors = (self.senders, self.receivers, self.directions)
        senders, receivers, directions = (tensor.contiguous() for tensor in tensors)
        return Ends(senders, receivers, directions, self.count)


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
        library.messages(*_edges(ends), pointer(filters), pointer(offers), pointer(out))
        return out[:, 0], out[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        filters, offers = ctx.saved_tensors
        by_out = torch.cat((gradients[0][:, None], gradients[1]), 1)  # (R, 4, H)
        by_filters, by_offers = torch.empty_like(filters), torch.zeros_like(offers)
        tensors = (filters, offers, by_out, by_filters, by_offers)
        ctx.library.messages_back(*_edges(ctx.ends), *map(pointer, tensors))
        return by_filters, by_offers, None, None


def _edges(ends: Ends) -> tuple[ctypes.c_long | ctypes.c_void_p, ...]:
    """The first arguments of both loops."""
    tensors = (ends.senders, ends.receivers, ends.directions)
    return threads(), ctypes.c_long(ends.senders.shape[0]), *map(pointer, tensors)
