"""The products over pairs as products of dense blocks, one a molecule.

Only (E, heads) numbers are gathered or scattered, no features. Points that fall into no small
blocks (one large crystal, interleaved copies) have none: they go edge by edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges, counted

# Dense blocks may hold so many times more pairs than there are edges.
WASTE = 6


class PairBlocks:
    """B blocks of up to n consecutive points that no edge leaves.

    Attributes:
        place: (P,) block * n + rank of each point.
        pair: (E,) place of the receiver * n + rank of the sender.
    """

    def __init__(self, edges: Edges, block: Tensor, counts: Tensor, blocks: int, size: int) -> None:
        self.blocks, self.size = blocks, size
        first = counts.cumsum(0) - counts
        rank = torch.arange(block.shape[0], device=block.device) - first.index_select(0, block)
        self.place = block * self.size + rank
        receiver = self.place.index_select(0, edges.receivers)
        self.pair = receiver * self.size + rank.index_select(0, edges.senders)

    @classmethod
    def of(cls, edges: Edges, points: int) -> PairBlocks | None:
        """The blocks of these edges; None where they would mostly be empty."""
        if not points:
            return None
        block = _starts(edges, points).cumsum(0) - 1  # (P,) each point's
        counts = counted(block, points)  # zero behind the last block
        # The one look at the device: how many, and the largest.
        blocks, size = (torch.stack((block[-1] + 1, counts.max()))).tolist()
        if blocks * size**2 > WASTE * (edges.receivers.shape[0] + points):
            return None
        return cls(edges, block, counts, blocks, size)

    def _padded(self, x: Tensor) -> Tensor:
        """(P, heads, d) -> (B, heads, n, d), zero where a block is smaller."""
        empty = x.new_zeros(self.blocks * self.size, *x.shape[1:])
        return empty.index_copy(0, self.place, x).unflatten(0, (-1, self.size)).transpose(1, 2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """As :meth:`PairProducts.scores`."""
        dense = self._padded(q) @ self._padded(k).transpose(2, 3)  # (B, heads, n, n)
        return dense.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, self.pair)

    def sums(self, weights: Tensor, values: Tensor) -> Tensor:
        """As :meth:`PairProducts.sums`."""
        empty = weights.new_zeros(self.blocks * self.size**2, weights.shape[1])
        dense = empty.index_add(0, self.pair, weights)  # images of one pair share an entry
        dense = dense.view(self.blocks, self.size, self.size, -1).permute(0, 3, 1, 2)
        summed = (dense @ self._padded(values)).transpose(1, 2).flatten(0, 1)
        return summed.index_select(0, self.place)


def _starts(edges: Edges, points: int) -> Tensor:
    """(P,) bool: whether no edge joins a point from here on to a point before."""
    own = torch.arange(points, device=edges.receivers.device)
    lowest = own.scatter_reduce(0, edges.receivers, edges.senders, "amin")
    lowest = lowest.scatter_reduce(0, edges.senders, edges.receivers, "amin")
    return lowest.flip(0).cummin(0).values.flip(0) >= own
