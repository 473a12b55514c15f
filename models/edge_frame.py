"""Tensor products with spherical harmonics of an edge, in a frame whose y axis lies along it.

There Y_l has one component that is not zero, m = 0, and the path l1 x l2 -> l3 joins component m
of the one side to component m (l1 + l2 + l3 even) or -m (odd) of the other, with one constant:

    sqrt(2 l3 + 1) sum_m2 C_{m1 m2 m3} Y_{l2, m2}(y) = sqrt((2 l3 + 1)(2 l2 + 1)) C_{m1 0 m3}

Which frame it is, among those turned about y, does not matter (the idea is that of Passaro and
Zitnick 2023, eSCN). An edge and its reverse share a frame, and a length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from neupol_cli.models.graph import Edges
from neupol_cli.models.harmonics import Constant, Harmonics, wigner_3j


@dataclass(frozen=True)
class Path:
    """One coupling l1 x Y_l2 -> l3."""

    l1: int
    l2: int
    l3: int

    @property
    def even(self) -> bool:
        """Whether it joins m to m; otherwise it joins m to -m."""
        return (self.l1 + self.l2 + self.l3) % 2 == 0

    def symbol(self) -> Tensor:
        """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1) of the tensor product with e3nn's normalisation."""
        return wigner_3j(self.l1, self.l2, self.l3) * math.sqrt(2 * self.l3 + 1)

    def coupling(self, m: int) -> float:
        """The constant that gives component m >= 0 of l3 along y; 0 where nothing does."""
        if m > min(self.l1, self.l3):
            return 0.0
        source = self.l1 + (m if self.even else -m)
        value = float(self.symbol()[source, self.l2, self.l3 + m])
        return value * math.sqrt(2 * self.l2 + 1) if abs(value) > 1e-9 else 0.0


@lru_cache(maxsize=8)
def paths(lmax: int) -> tuple[Path, ...]:
    """Every coupling of l1, l2, l3 <= lmax, in the published order."""
    degrees = range(lmax + 1)
    return tuple(
        Path(l1, l2, l3)
        for l1 in degrees
        for l2 in degrees
        for l3 in degrees
        if abs(l1 - l2) <= l3 <= l1 + l2
    )


@dataclass(frozen=True)
class Pairs:
    """Edges of some points, each beside its reverse.

    E edges are put in an order: first H half edges, then the reverses of the first E - H of these.

    Attributes:
        half: the half edges.
        receivers, senders: (E,) in this order.
        rotations: for l = 1..lmax (H, 2l + 1, 2l + 1), turning features into the edge's frame.
        harmonics: (E, (lmax + 1)^2) of sender minus receiver, not turned.
        apart: (H, 1) whether an edge has a length; None if all have.
        slots: (E,) a place for each edge in (points, degree), so that sums over an atom's
            neighbours are sums over the second axis.
        degree: the largest number of neighbours, at least one.
    """

    half: Edges
    receivers: Tensor
    senders: Tensor
    rotations: list[Tensor]
    harmonics: Tensor
    apart: Tensor | None
    slots: Tensor
    degree: int


class Frames:
    """Finds the pairs and frames of edges, once for the same edges."""

    def __init__(self, lmax: int) -> None:
        self.lmax = lmax
        self.harmonics = Harmonics(lmax)
        self.raising = [
            Constant(wigner_3j(degree - 1, 1, degree).reshape(-1, 2 * degree + 1))
            for degree in range(2, lmax + 1)
        ]

    def __call__(self, edges: Edges, points: int) -> Pairs:
        """The edges among so many points."""
        key = ("edge frames", self.lmax)
        if key not in edges.shared:
            edges.shared[key] = self._pairs(edges, points)
        return edges.shared[key]

    def _pairs(self, edges: Edges, points: int) -> Pairs:
        order, size = paired(edges)
        receivers = edges.receivers.index_select(0, order)
        senders = edges.senders.index_select(0, order)
        vectors = edges.vectors.index_select(0, order)
        half = Edges(receivers[:size], senders[:size], vectors[:size])
        apart = (half.squared > 0)[:, None]
        slots, degree = self._slots(edges.receivers, points)
        return Pairs(
            half,
            receivers,
            senders,
            self.rotations(half.directions, apart),
            self.harmonics(edges.directions.index_select(0, order)),
            None if bool(apart.all()) else apart,
            slots.index_select(0, order),
            degree,
        )

    @staticmethod
    def _slots(receivers: Tensor, points: int) -> tuple[Tensor, int]:
        """receivers (E,), ascending -> (E,) receiver * degree + rank, and the largest degree."""
        counts = torch.bincount(receivers, minlength=points)
        degree = max(int(counts.max()), 1) if points else 1
        starts = counts.cumsum(0) - counts
        rank = torch.arange(receivers.shape[0], device=receivers.device) - starts[receivers]
        return receivers * degree + rank, degree

    def rotations(self, directions: Tensor, apart: Tensor) -> list[Tensor]:
        """(H, 3) unit vectors -> for l = 1..lmax (H, 2l + 1, 2l + 1), with D_l Y_l(n) = Y_l(y).

        A half turn about n + y takes n to y; where n points away from y, one about n - y takes it
        to -y and one about x brings it back, so that nothing is divided by less than one.
        """
        pole = directions.new_tensor([0.0, 1.0, 0.0])
        n = torch.where(apart, directions, pole)
        side = torch.where(n[:, 1:2] >= 0, 1.0, -1.0).to(n)  # (H, 1)
        axis = n + side * pole
        scaled = axis / (1 + side * n[:, 1:2])  # axis . axis = 2 (1 + |n_y|)
        turn = scaled[:, :, None] * axis[:, None, :] - torch.eye(3).to(n)
        flip = torch.cat((torch.ones_like(side), side, side), 1)  # half turn about x
        found = [flip[:, :, None] * turn]
        for degree, raising in enumerate(self.raising, 2):
            found.append(self._raised(found[-1], found[0], raising.like(n), degree))
        return found

    @staticmethod
    def _raised(last: Tensor, first: Tensor, raising: Tensor, degree: int) -> Tensor:
        """D_l = (2l + 1) Cᵀ (D_{l-1} x D_1) C, C the (l-1, 1, l) symbol."""
        outer = last[:, :, None, :, None] * first[:, None, :, None, :]
        outer = outer.flatten(1, 2).flatten(2, 3)  # (H, rows of both, columns of both)
        return (2 * degree + 1) * (raising.t() @ (outer @ raising))


def paired(edges: Edges) -> tuple[Tensor, int]:
    """An order (E,) of edges that puts each after its reverse, and the number H of halves.

    The first H edges are one of each pair, then those without a reverse; the reverses of the
    former follow in the same order. A reverse has exactly the opposite vector.
    """
    points = int(max(edges.receivers.max(), edges.senders.max())) + 1 if len(edges.vectors) else 1
    low = torch.minimum(edges.receivers, edges.senders)
    key = low * points + torch.maximum(edges.receivers, edges.senders)
    order = torch.argsort(key, stable=True)
    key, vectors = key[order], edges.vectors.detach()[order]
    meets = (key[1:] == key[:-1]) & (vectors[1:] == -vectors[:-1]).all(1)
    none = meets.new_zeros(1)
    first = torch.cat((meets & ~torch.cat((none, meets[:-1]))[: meets.shape[0]], none))
    first = first[: order.shape[0]]
    second = torch.cat((none, first[:-1]))[: order.shape[0]]
    alone = ~(first | second)
    half = torch.cat((order[first], order[alone]))
    return torch.cat((half, order[second])), half.shape[0]
