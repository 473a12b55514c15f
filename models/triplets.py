"""Pairs of edges that meet at an atom, k -> j -> i, as one small dense block an atom.

A list of triplets makes a network gather, multiply and scatter a wide row for each of them. With
the n edges that arrive at an atom in n slots, and the n that leave it in n more, everything a
triplet needs is an entry of an n x n block, and a sum over k is a matrix product.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from neupol_cli.models.graph import Edges

# Two images of one atom are further apart than this; in Angstrom^2.
SAME = 1e-2


class Triplets:
    """Every edge k -> j with every edge j -> i but its own reverse, for P points.

    Attributes:
        slots: n, the largest number of edges that arrive at, or leave, a point.
        arrival, departure: (E,) the slot of an edge among those that arrive at its receiver and
            among those that leave its sender, counted over all points: point * n + rank.
    """

    def __init__(self, edges: Edges, points: int) -> None:
        self.edges, self.points = edges, points
        with torch.no_grad():
            arriving, self.arrival = _ranked(edges.receivers, points)
            leaving, self.departure = _ranked(edges.senders, points)
            most = torch.stack((arriving, leaving)).max() if points else 0
            self.slots = int(most)
            self.arrival += edges.receivers * self.slots
            self.departure += edges.senders * self.slots

    def arriving(self, values: Tensor) -> Tensor:
        """(E, ...) -> (P, n, ...): the values of the edges k -> j, zero in empty slots."""
        return self._placed(values, self.arrival)

    def leaving(self, values: Tensor) -> Tensor:
        """(E, ...) -> (P, n, ...): the values of the edges j -> i, zero in empty slots."""
        return self._placed(values, self.departure)

    def _placed(self, values: Tensor, slot: Tensor) -> Tensor:
        empty = values.new_zeros(self.points * self.slots, *values.shape[1:])
        return empty.index_copy(0, slot, values).view(self.points, self.slots, *values.shape[1:])

    def departed(self, blocks: Tensor) -> Tensor:
        """(P, n, ...) by departure slot -> (E, ...) by edge j -> i."""
        return blocks.flatten(0, 1).index_select(0, self.departure)

    @cached_property
    def distinct(self) -> Tensor:
        """(P, n, n) bool [j, i, k]: whether k is not i; an atom's own image is another atom."""
        with torch.no_grad():
            came_from = self.arriving(self.edges.senders)[:, None]  # (P, 1, n)
            goes_to = self.leaving(self.edges.receivers)[:, :, None]  # (P, n, 1)
            there = self.leaving(self.edges.squared)[:, :, None]
            back = self.arriving(self.edges.squared)[:, None]
            gap = there + back + 2 * self._products(self.edges.vectors)  # |v_kj + v_ji|^2
            return (came_from != goes_to) | (gap > SAME)

    def _products(self, vectors: Tensor) -> Tensor:
        """(E, 3) -> (P, n, n) [j, i, k] scalar products."""
        return self.leaving(vectors) @ self.arriving(vectors).transpose(1, 2)

    @cached_property
    def cosines(self) -> Tensor:
        """(P, n, n) [j, i, k] cosine of the angle between j - k and i - j: 1 on a straight chain.

        This is DimeNet's angle as coded in PyTorch Geometric, pi minus the bond angle.
        """
        return self._products(self.edges.directions)

    @cached_property
    def angles(self) -> Tensor:
        """(P, n, n) [j, i, k] that angle in [0, pi]; its gradient is finite on straight chains."""
        onward = self.leaving(self.edges.directions)[:, :, None]  # (P, n, 1, 3)
        incoming = self.arriving(self.edges.directions)[:, None]  # (P, 1, n, 3)
        squared = torch.linalg.cross(onward, incoming).square().sum(-1)
        bent = squared > 0
        sines = torch.where(bent, squared, 1.0).sqrt() * bent
        # An empty slot has neither sine nor cosine, and atan2 no derivative there.
        cosines = torch.where(bent | (self.cosines != 0), self.cosines, 1.0)
        return torch.atan2(sines, cosines)

    @cached_property
    def listed(self) -> tuple[Tensor, Tensor]:
        """(T,) each: the edges k -> j and j -> i of every triplet, as a list."""
        numbers = torch.arange(self.edges.receivers.shape[0], device=self.arrival.device) + 1
        first = self.arriving(numbers)[:, None] - 1  # -1 in an empty slot
        second = self.leaving(numbers)[:, :, None] - 1
        there = self.distinct & (first >= 0) & (second >= 0)
        return first.expand_as(there)[there], second.expand_as(there)[there]


def _ranked(owners: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """(P,) how many edges each point owns, and (E,) the rank of each edge among its owner's."""
    counts = torch.bincount(owners, minlength=points)
    order = owners.argsort(stable=True)
    first = (counts.cumsum(0) - counts).index_select(0, owners.index_select(0, order))
    rank = torch.empty_like(owners)
    rank[order] = torch.arange(owners.shape[0], device=owners.device) - first
    return counts, rank
