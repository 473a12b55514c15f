"""PaiNN's messages and their sums at the receivers: the formula, in plain PyTorch.

    ds_i = sum_j s_j g,   dv_i = sum_j (v_j a + u b)

of an edge's filters, which an atom's offers are multiplied with; see painn.py. kernels/ has a
faster version, which the tests hold against this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import segment_sum


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


def summed_messages(filters: Tensor, offers: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    """ds_i = sum_j s_j g and dv_i = sum_j (v_j a + u b).

    Args:
        filters: (E, 3 H) L_filter(e) c, an edge's part of a, b and g.
        offers: (A, 5, H) an atom's part of s g, b, and the three components of v a.
        ends: whom the edges join.

    Returns:
        (R, H) and (R, 3, H), differentiable to any order.
    """
    ds, dv = _one_way(filters, offers, ends)
    if not ends.mutual:
        return ds, dv
    back = _one_way(filters[: ends.mutual], offers, ends.turned())
    return ds + back[0], dv + back[1]


def _one_way(filters: Tensor, offers: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    a, b, g = filters.chunk(3, 1)
    sg, ob, *va = offers.index_select(0, ends.senders).unbind(1)  # (E, H) each
    ds = segment_sum(g * sg, ends.receivers, ends.count)
    along = ends.directions[:, :, None] * (b * ob)[:, None]  # (E, 3, H) u b
    dv = along + torch.stack(va, 1) * a[:, None]
    return ds, segment_sum(dv, ends.receivers, ends.count)
