"""Unique edges, one a pair of points: what depends on a distance is the same in both directions.

An edge j -> i and its reverse i -> j have one length between them, so whatever is computed from
that length alone (a distance encoding, a radial network) is computed once a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges, where_true


class EdgeDirection(NamedTuple):
    """One direction through a run of T unique edges.

    Attributes:
        receivers, senders: (T,) indices of points.
        sign: 1 or -1; it turns the unique edges' directions, which point at ``edges.senders``,
            to point at these senders.
    """

    receivers: Tensor
    senders: Tensor
    sign: float


@dataclass(frozen=True)
class UniqueEdges:
    """Q unique edges that stand for E directed ones.

    Attributes:
        edges: one directed edge of each pair, (Q,) in all.
        mutual: how many of them, the first ones, stand for two directed edges; the others for one.
        copies: where points k + copies lie on points k, copies; each edge then also stands for
            those that one or both of its ends have copies of. Else 0.
    """

    edges: Edges
    mutual: int
    copies: int = 0

    @property
    def kinds(self) -> int:
        """For how many edges of one direction each stands."""
        return 4 if self.copies else 1

    @classmethod
    def of(cls, edges: Edges) -> UniqueEdges:
        """The unique edges among some directed ones; worked out once for the same edges."""
        return edges.once("unique edges", lambda: cls._select(edges))

    @classmethod
    def _select(cls, edges: Edges) -> UniqueEdges:
        with torch.no_grad():
            if edges.both_ways:
                mutual = edges.receivers.shape[0] // 2
                index = where_true(edges.receivers < edges.senders, mutual)
            else:
                index, mutual = _one_of_each_pair(edges.receivers, edges.senders)
        return cls(edges.select(index), mutual)

    def with_self_loops(self, points: int, copies: int = 0) -> UniqueEdges:
        """The same, and behind them each point with itself, at distance zero in no direction.

        Args:
            points: how many there are, without copies.
            copies: see the class.
        """
        own = torch.arange(points, device=self.edges.receivers.device)
        edges = Edges(
            torch.cat((self.edges.receivers, own)),
            torch.cat((self.edges.senders, own)),
            torch.cat((self.edges.vectors, self.edges.vectors.new_zeros(points, 3))),
            self.edges.softening,
        )
        return UniqueEdges(edges, self.mutual, copies)

    def __len__(self) -> int:
        return self.edges.receivers.shape[0]

    def tiles(self, size: int) -> Iterator[tuple[slice, list[EdgeDirection]]]:
        """Runs of at most ``size`` unique edges, each with its directions: one or two, of each
        kind."""
        for start, end in ((0, self.mutual), (self.mutual, len(self))):
            for low in range(start, end, max(size, 1)):
                tile = slice(low, min(low + size, end))
                yield tile, list(self._directions(tile, 2 if start < self.mutual else 1))

    def _directions(self, tile: slice, ways: int) -> Iterator[EdgeDirection]:
        a, b = self.edges.receivers[tile], self.edges.senders[tile]
        for kind in range(self.kinds):
            receiver, sender = self.copies * (kind % 2), self.copies * (kind // 2)
            yield EdgeDirection(a + receiver, b + sender, 1.0)
            if ways == 2:
                yield EdgeDirection(b + receiver, a + sender, -1.0)

    def directions(self) -> Iterator[tuple[slice, EdgeDirection]]:
        """The same in as few runs as there can be, direction by direction."""
        for tile, directions in self.tiles(len(self)):
            for direction in directions:
                yield tile, direction


def _one_of_each_pair(receivers: Tensor, senders: Tensor) -> tuple[Tensor, int]:
    """(Q,) edges, one of each pair, and how many of them, in front, stand for their reverse too.

    Two edges are a pair if they are the only ones between their points and go opposite ways. Of
    several periodic images each edge is kept for itself: the points do not tell them apart.
    """
    if receivers.shape[0] == 0:
        return receivers, 0
    low, high = torch.minimum(receivers, senders), torch.maximum(receivers, senders)
    key, order = torch.sort(low * (high.max() + 1) + high, stable=True)
    receivers = receivers.index_select(0, order)
    # Of each edge but the last in this order: whether the next one joins the same points.
    same = key[1:] == key[:-1]
    none = same.new_zeros(1)
    before, after = torch.cat((none, same[:-1])), torch.cat((same[1:], none))
    two = same & ~before & ~after & (receivers[1:] != receivers[:-1])
    first = where_true(two)  # the one number that a device is asked for is how many
    one, other = order.index_select(0, first), order.index_select(0, first + 1)
    alone = torch.ones_like(order, dtype=torch.bool)
    alone = alone.index_fill(0, one, False).index_fill(0, other, False)
    mutual = one.shape[0]
    return torch.cat((one, where_true(alone, order.shape[0] - 2 * mutual))), mutual
