"""Tensor products with spherical harmonics of an edge, in a frame whose y axis lies along it.

There Y_l has one component that is not zero, m = 0, and the path l1 x l2 -> l3 joins component m
of the one side to component m (l1 + l2 + l3 even) or -m (odd) of the other, with one constant:

    sqrt(2 l3 + 1) sum_m2 C_{m1 m2 m3} Y_{l2, m2}(y) = sqrt((2 l3 + 1)(2 l2 + 1)) C_{m1 0 m3}

Which frame it is, among those turned about y, does not matter (the idea is that of Passaro and
Zitnick 2023, eSCN). Edges are put into tiles in which each is beside its reverse: the two have one
length, and so one set of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from neupol_cli.models.equiformer.tensor_product import Path
from neupol_cli.models.nn.graph import Edges, where_true
from neupol_cli.models.nn.harmonics import Constant, Harmonics
from neupol_cli.models.nn.wigner import wigner_3j


@lru_cache(maxsize=512)
def coupling(path: Path, m: int) -> float:
    """The constant that gives component m >= 0 of l3 along y; 0 where nothing does."""
    if m > min(path.l1, path.l3):
        return 0.0
    source = path.l1 + (m if path.even else -m)
    value = float(path.symbol()[source, path.l2, path.l3 + m])
    return value * math.sqrt(2 * path.l2 + 1) if abs(value) > 1e-9 else 0.0


# Pairs of edges in a tile: what 256 of them need at a time stays in a core's caches.
TILE = 256


@dataclass(frozen=True)
class Tile:
    """Consecutive edges: all of ``half``, then their reverses if there are two ``sides``."""

    edges: slice
    half: slice
    sides: int


@dataclass(frozen=True)
class FramedEdges:
    """E edges of some points, of which H lengths are different: an edge and its reverse have one.

    Attributes:
        half: one edge of each pair, H of them.
        halves: (E,) the index of each edge's length in ``half``.
        receivers, senders: (E,) in the order of the tiles.
        rotations: for l = 1..lmax (E, 2l + 1, 2l + 1), turning features into the edge's frame.
        harmonics: (E, (lmax + 1)^2) of sender minus receiver, not turned.
        tiles: the edges, a tile after another.
    """

    half: Edges
    halves: Tensor
    receivers: Tensor
    senders: Tensor
    rotations: list[Tensor]
    harmonics: Tensor
    tiles: list[Tile]


class Frames:
    """Finds the pairs and frames of edges, once for the same edges."""

    def __init__(self, lmax: int) -> None:
        self.lmax = lmax
        self.harmonics = Harmonics(lmax)
        self.raising = [
            Constant(wigner_3j(degree - 1, 1, degree).reshape(-1, 2 * degree + 1))
            for degree in range(2, lmax + 1)
        ]

    def __call__(self, edges: Edges) -> FramedEdges:
        """The pairs of these edges, all of them between points that are apart."""
        key = ("edge frames", self.lmax)
        return edges.once(key, lambda: self._pairs(edges))

    def _pairs(self, edges: Edges) -> FramedEdges:
        first, second = paired(edges)
        counts = [(len(second), 2), (len(first) - len(second), 1)]
        tiles = list(tiled(counts, TILE if first.device.type == "cpu" else max(len(first), 1)))
        return self._framed(edges, first, second, tiles)

    def _framed(
        self, edges: Edges, first: Tensor, second: Tensor, tiles: list[Tile]
    ) -> FramedEdges:
        """The pairs from half edges, the reverses of those that have one, and the tiles."""
        halves, order, used = [first.new_empty(0)], [first.new_empty(0)], 0
        for tile in tiles:
            count = tile.half.stop - tile.half.start
            here = torch.arange(tile.half.start, tile.half.stop, device=first.device)
            halves.append(here.repeat(tile.sides))
            order.append(first[tile.half])
            if tile.sides == 2:
                order.append(second[used : used + count])
                used += count
        index = torch.cat(order)
        directions = edges.directions.index_select(0, index)
        return FramedEdges(
            edges.select(first),
            torch.cat(halves),
            edges.receivers.index_select(0, index),
            edges.senders.index_select(0, index),
            self.rotations(directions),
            self.harmonics(directions),
            tiles,
        )

    def rotations(self, directions: Tensor) -> list[Tensor]:
        """(E, 3) unit vectors -> for l = 1..lmax (E, 2l + 1, 2l + 1), with D_l Y_l(n) = Y_l(y).

        A half turn about n + y takes n to y; where n points away from y, one about n - y takes it
        to -y and one about x brings it back, so that nothing is divided by less than one.
        """
        n, unit = directions, torch.eye(3, dtype=directions.dtype, device=directions.device)
        side = torch.where(n[:, 1:2] >= 0, 1.0, -1.0).to(n)  # (E, 1)
        axis = n + side * unit[1]
        scaled = axis / (1 + side * n[:, 1:2])  # axis . axis = 2 (1 + |n_y|)
        turn = scaled[:, :, None] * axis[:, None, :] - unit
        flip = torch.cat((torch.ones_like(side), side, side), 1)  # half turn about x
        rotations = [flip[:, :, None] * turn]
        for degree, raising in enumerate(self.raising, 2):
            rotations.append(self._raised(rotations[-1], rotations[0], raising.like(n), degree))
        return rotations

    @staticmethod
    def _raised(last: Tensor, first: Tensor, raising: Tensor, degree: int) -> Tensor:
        """D_l = (2l + 1) Cᵀ (D_{l-1} x D_1) C, C the (l-1, 1, l) symbol."""
        outer = last[:, :, None, :, None] * first[:, None, :, None, :]
        outer = outer.flatten(1, 2).flatten(2, 3)  # (E, rows of both, columns of both)
        return (2 * degree + 1) * (raising.t() @ (outer @ raising))


def tiled(counts: Sequence[tuple[int, int]], size: int) -> Iterator[Tile]:
    """Tiles of half edges, kind after kind: how many, and with how many sides."""
    at = begin = 0
    for many, sides in counts:
        end = begin + many
        for start in range(begin, end, size):
            half = slice(start, min(start + size, end))
            count = sides * (half.stop - half.start)
            yield Tile(slice(at, at + count), half, sides)
            at += count
        begin = end


def paired(edges: Edges) -> tuple[Tensor, Tensor]:
    """One edge of each pair, then those without a reverse (H,); and the reverses of the former.

    A reverse joins the same points and has exactly the opposite vector.
    """
    if not len(edges.vectors):
        return edges.receivers, edges.receivers
    low = torch.minimum(edges.receivers, edges.senders)
    high = torch.maximum(edges.receivers, edges.senders)
    key = low * (high.max() + 1) + high
    order = torch.argsort(key, stable=True)
    if edges.both_ways:
        return order[0::2], order[1::2]
    key, vectors = key[order], edges.vectors.detach()[order]
    meets = (key[1:] == key[:-1]) & (vectors[1:] == -vectors[:-1]).all(1)
    none = meets.new_zeros(1)
    first = torch.cat((meets & ~torch.cat((none, meets[:-1]))[: meets.shape[0]], none))
    second = torch.cat((none, first[:-1]))
    halves = where_true(first)  # the one number that a device is asked for is how many
    alone = where_true(~(first | second), order.shape[0] - 2 * halves.shape[0])
    return torch.cat((order[halves], order[alone])), order[halves + 1]
