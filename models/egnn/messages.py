"""EGNN's messages and their sums at the receivers: the formula, in plain PyTorch.

    m_ij = silu(L(silu(L[h_i, h_j, e(r_ij)])))          phi_e; published: e(r) = r^2
    m_ij = C(r_ij) sigmoid(w m_ij + b) m_ij             attention; C is 1 without a cutoff
    M_i  = sum_j m_ij
    phi_ij = L(silu(L(m_ij)))                           phi_x, where points move

(Satorras, Hoogeboom and Welling 2021, eqs. 3, 5 and 8.) phi_e's first map is split: L[h_i, h_j, e]
= A h_i + c + B h_j + C e, two products a point and one narrow one an edge, instead of one wide
product an edge. kernels/ has a faster version, which the tests hold against this one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.nn.graph import segment_sum
from neupol_cli.models.nn.linear import product


class MessageInputs(NamedTuple):
    """What a layer's messages are made of; E edges, P points, H features, s numbers a distance.

    Attributes:
        received: (P, H) A h + c.
        sent: (P, H) B h.
        encoded: (E, s) e.
        to_distance: (H, s) C.
        weight, bias: (H, H), (H,) phi_e's second map.
        attention, attention_bias: (1, H), (1,) w and b.
        envelope: (E, 1) C(r), or None without a cutoff.
    """

    received: Tensor
    sent: Tensor
    encoded: Tensor
    to_distance: Tensor
    weight: Tensor
    bias: Tensor
    attention: Tensor
    attention_bias: Tensor
    envelope: Tensor | None

    def select(self, edges: slice) -> MessageInputs:
        """The same for these edges only."""
        envelope = None if self.envelope is None else self.envelope[edges]
        return self._replace(encoded=self.encoded[edges], envelope=envelope)


class PushInputs(NamedTuple):
    """phi_x of a message: last silu(weight m + bias).

    Attributes:
        weight, bias: (Q, H), (Q,).
        last: (1, Q).
    """

    weight: Tensor
    bias: Tensor
    last: Tensor


def messages(p: MessageInputs, receivers: Tensor, senders: Tensor) -> Tensor:
    """m_ij.

    Args:
        p: see :class:`MessageInputs`.
        receivers, senders: (E,) indices of points.

    Returns:
        (E, H).
    """
    # index_select made a tensor of its own, so the sum may go into it.
    first = p.received.index_select(0, receivers).add_(p.sent.index_select(0, senders))
    first = first + product(p.encoded, p.to_distance)  # (E, H)
    m = functional.silu(product(functional.silu(first), p.weight, p.bias))
    m = torch.sigmoid(functional.linear(m, p.attention, p.attention_bias)) * m
    return m if p.envelope is None else m * p.envelope


def summed_messages(p: MessageInputs, receivers: Tensor, senders: Tensor) -> Tensor:
    """(P, H) sum_j m_ij."""
    return segment_sum(messages(p, receivers, senders), receivers, p.received.shape[0])


def sums_and_pushes(
    p: MessageInputs, push: PushInputs, receivers: Tensor, senders: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, and (E, 1) phi_x of each message."""
    m = messages(p, receivers, senders)
    hidden = functional.silu(product(m, push.weight, push.bias))
    summed = segment_sum(m, receivers, p.received.shape[0])
    return summed, functional.linear(hidden, push.last)
