"""Triplets of edges k -> j -> i as one small dense block an atom.

A list of them makes a network gather, multiply and scatter a wide row for each of them. With
the n edges that arrive at an atom in n slots, and the n that leave it in n more, everything a
triplet needs is an entry of an n x n block, and a sum over k is a matrix product.

Atoms are sorted by n and cut into fans of a few, each padded to its own largest n: hardly any slot
stays empty, and on a CPU what belongs to a fan stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neupol_cli.models.dimenet.triplets import SAME, angle_between
from neupol_cli.models.nn.graph import Edges, counted

# Atoms of a fan on a CPU. A GPU, which hates small kernels, gets all atoms in so many fans.
FAN, FANS = 64, 4


@dataclass(frozen=True)
class Fan:
    """Some atoms j with n slots each for edges k -> j and for edges j -> i.

    Attributes:
        onward, incoming: (a, n, 3) directions of the edges j -> i and k -> j, zero if empty.
        distinct: (a, n, n) bool [j, i, k]: both slots are taken, and k is not i.
    """

    onward: Tensor
    incoming: Tensor
    distinct: Tensor

    @cached_property
    def cosines(self) -> Tensor:
        """(a, n, n) [j, i, k], as :class:`Angles` says."""
        return self.onward @ self.incoming.transpose(1, 2)

    @cached_property
    def angles(self) -> Tensor:
        """(a, n, n) [j, i, k], as :class:`Angles` says."""
        return angle_between(self.onward[:, :, None], self.incoming[:, None], self.cosines)


class FanTriplets:
    """Every edge k -> j with every edge j -> i but its own reverse, for P points.

    Attributes:
        fans: the points in groups.
        sizes: how many slots each fan has, points times n; S in all.
        arrival, departure: (E,) the slot of an edge among those that arrive at its receiver and
            among those that leave its sender.
    """

    def __init__(self, edges: Edges, points: int) -> None:
        self.edges = edges
        with torch.no_grad():
            arriving, arrival = _ranked(edges.receivers, points)
            leaving, departure = _ranked(edges.senders, points)
            shape, first = _slots(torch.maximum(arriving, leaving))
            self.arrival = first.index_select(0, edges.receivers) + arrival
            self.departure = first.index_select(0, edges.senders) + departure
        self.sizes = [a * n for a, n in shape]
        self.size = sum(self.sizes)
        onward = self.split(self.leaving(edges.directions))
        incoming = self.split(self.arriving(edges.directions))
        distinct = self._distinct(shape)
        self.fans = [
            Fan(v.view(a, n, 3), u.view(a, n, 3), d)
            for v, u, d, (a, n) in zip(onward, incoming, distinct, shape, strict=True)
        ]

    def arriving(self, values: Tensor) -> Tensor:
        """(E, ...) -> (S, ...): the values of the edges k -> j, zero in empty slots."""
        empty = values.new_zeros(self.size, *values.shape[1:])
        return empty.index_copy_(0, self.arrival, values)

    def leaving(self, values: Tensor) -> Tensor:
        """(E, ...) -> (S, ...): the values of the edges j -> i, zero in empty slots."""
        empty = values.new_zeros(self.size, *values.shape[1:])
        return empty.index_copy_(0, self.departure, values)

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """(S, ...) -> the rows of each fan."""
        return values.split(self.sizes)

    def departed(self, values: Tensor) -> Tensor:
        """(S, ...) by slot of the edge j -> i -> (E, ...) by edge."""
        return values.index_select(0, self.departure)

    @torch.no_grad()
    def _distinct(self, shape: Sequence[tuple[int, int]]) -> list[Tensor]:
        """(a, n, n) a fan; an atom's own image is another atom, told by where it is."""
        blocks = []
        vectors, ends = self.edges.vectors, self.edges
        columns = (
            *(self.split(self.arriving(x)) for x in (vectors, ends.senders + 1)),
            *(self.split(self.leaving(x)) for x in (vectors, ends.receivers + 1)),
        )
        for (a, n), incoming, came_from, onward, goes_to in zip(shape, *columns, strict=True):
            k, i = came_from.view(a, 1, n), goes_to.view(a, n, 1)  # 0 in an empty slot
            back, there = incoming.view(a, n, 3), onward.view(a, n, 3)
            sizes = back.square().sum(2)[:, None] + there.square().sum(2)[:, :, None]
            gap = sizes + 2 * there @ back.transpose(1, 2)  # |v_kj + v_ji|^2
            blocks.append((k > 0) & (i > 0) & ((k != i) | (gap > SAME)))
        return blocks


def _ranked(centres: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """(P,) how many edges each point owns, and (E,) the rank of each edge among its owner's."""
    counts = counted(centres, points)
    order = centres.argsort(stable=True)
    first = (counts.cumsum(0) - counts).index_select(0, centres.index_select(0, order))
    rank = torch.empty_like(centres)
    rank[order] = torch.arange(centres.shape[0], device=centres.device) - first
    return counts, rank


def _slots(counts: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """(P,) edges a point -> points and slots n of each fan, and (P,) each point's first slot."""
    points = counts.shape[0]
    step = FAN if counts.device.type == "cpu" else max(-(-points // FANS), 1)
    ordered, order = counts.sort()
    ends = [min(start + step, points) for start in range(0, points, step)]
    # Ascending, so that a fan's last one is its largest: the one look at the device.
    most = torch.cat((ordered[step - 1 : points - 1 : step], ordered[-1:])).tolist()
    shape = [(end - k * step, n) for k, (end, n) in enumerate(zip(ends, most, strict=True))]
    per_point = torch.cat([counts.new_full((a,), n) for a, n in shape])
    first = torch.empty_like(counts)
    first[order] = per_point.cumsum(0) - per_point
    return shape, first
