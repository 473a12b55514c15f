"""Unordered pairs of points: what depends on a distance is the same in both directions.

An edge j -> i and its reverse i -> j have one length between them, so whatever is computed from
that length alone (a distance encoding, a radial network) is computed once a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges


class Way(NamedTuple):
    """One direction through a run of pairs: (T,) receivers, (T,) senders, and which way it is.

    ``sign`` turns the pairs' directions, which point at ``edges.senders``, to point at ours.
    """

    receivers: Tensor
    senders: Tensor
    sign: float


@dataclass(frozen=True)
class Pairs:
    """Q pairs that stand for E edges.

    Attributes:
        edges: one edge of each pair, (Q,) in all.
        mutual: how many pairs, the first ones, stand for two edges; the others for one.
    """

    edges: Edges
    mutual: int

    @classmethod
    def of(cls, edges: Edges) -> Pairs:
        """The pairs of some edges; worked out once for the same edges."""
        kept: dict[Any, Any] = edges.shared
        if "pairs" not in kept:
            kept["pairs"] = cls._found(edges)
        return kept["pairs"]

    @classmethod
    def _found(cls, edges: Edges) -> Pairs:
        with torch.no_grad():
            chosen, mutual = _chosen(edges.receivers, edges.senders)
        one = Edges(
            edges.receivers.index_select(0, chosen),
            edges.senders.index_select(0, chosen),
            edges.vectors.index_select(0, chosen),
        )
        return cls(one, mutual)

    def with_own(self, points: int) -> Pairs:
        """The same, and behind them each point with itself, at distance zero in no direction."""
        own = torch.arange(points, device=self.edges.receivers.device)
        edges = Edges(
            torch.cat((self.edges.receivers, own)),
            torch.cat((self.edges.senders, own)),
            torch.cat((self.edges.vectors, self.edges.vectors.new_zeros(points, 3))),
        )
        return Pairs(edges, self.mutual)

    def __len__(self) -> int:
        return self.edges.receivers.shape[0]

    def tiles(self, size: int) -> Iterator[tuple[slice, list[Way]]]:
        """Runs of at most ``size`` pairs, each with the one or two ways through it."""
        for start, end in ((0, self.mutual), (self.mutual, len(self))):
            for low in range(start, end, max(size, 1)):
                tile = slice(low, min(low + size, end))
                a, b = self.edges.receivers[tile], self.edges.senders[tile]
                ways = [Way(a, b, 1.0), Way(b, a, -1.0)]
                yield tile, ways[: 2 if start < self.mutual else 1]


def _chosen(receivers: Tensor, senders: Tensor) -> tuple[Tensor, int]:
    """(Q,) edges, one of each pair, and how many of them, in front, stand for their reverse too.

    Two edges are a pair if they are the only ones between their points and go opposite ways. Of
    several periodic images each edge is kept for itself: the points do not tell them apart.
    """
    if receivers.shape[0] == 0:
        return receivers, 0
    low, high = torch.minimum(receivers, senders), torch.maximum(receivers, senders)
    key, order = torch.sort(low * (high.max() + 1) + high, stable=True)
    counts = torch.unique_consecutive(key, return_counts=True)[1]
    first = (counts.cumsum(0) - counts)[counts == 2]
    one, other = order[first], order[first + 1]
    opposite = receivers[one] != receivers[other]
    one, other = one[opposite], other[opposite]
    alone = torch.ones_like(receivers, dtype=torch.bool)
    alone[one] = False
    alone[other] = False
    return torch.cat((one, alone.nonzero().squeeze(1))), one.shape[0]
