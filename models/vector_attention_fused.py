"""The equivariant transformer's attention in one compiled loop over pairs (vector_attention.cpp).

The same sums and derivatives as models/vector_attention_tiles.py, for float32 and float64 on a
CPU. What is left for PyTorch are the matrix products of the radial part, a tile of pairs at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models import fused
from neupol_cli.models.linear import product
from neupol_cli.models.pairs import Pairs
from neupol_cli.models.vector_attention_radial import Parts, Shape

SOURCE = Path(__file__).with_name("vector_attention.cpp")
REALS = {torch.float32: "float", torch.float64: "double"}
# Numbers of a tile's radial part, a megabyte in float32: half of a core's second cache.
TILE_NUMBERS = 2**17

COUNTS = ("pairs", "ways", "vectors", "threads")
POINTERS = (
    *("first", "second", "envelope", "envelope_t", "directions", "directions_t"),
    *("query", "query_t", "sent", "sent_t", "gradient", "before", "before_t"),
    *("sum", "by_query", "by_sent", "by_envelope", "by_directions"),
)


class Tile(ctypes.Structure):
    """The struct of the same name: counts, and pointers to contiguous numbers."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in COUNTS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def library(query: Tensor, shape: Shape) -> ctypes.CDLL | None:
    """The loops for these sizes and numbers, or None where there are none."""
    if query.device.type != "cpu" or query.dtype not in REALS:
        return None
    sizes = {"HIDDEN": query.shape[1], "HEADS": shape.heads, "SMOOTH": int(shape.smooth)}
    return fused.library(SOURCE, {"REAL": REALS[query.dtype], **sizes})


class Loop:
    """A pass over all pairs, tile by tile; ``points`` are what C reads or adds to for every tile.

    Iterated, it yields the runs of pairs. ``slopes`` collects the threads' shares of what the
    derivatives by C and u come to.
    """

    def __init__(self, p: Parts, pairs: Pairs, shape: Shape, **points: Tensor) -> None:
        self.p, self.pairs = p, pairs
        self.threads = min(torch.get_num_threads(), shape.heads)
        self.size = max(TILE_NUMBERS // p.weight.shape[0], 16)
        vectors = p.weight.shape[0] == 4 * p.query.shape[1]
        self.tile = Tile(vectors=vectors, threads=self.threads)
        self.kept: dict[str, Tensor] = {}  # for as long as C has their addresses
        for name, tensor in {"query": p.query, "sent": p.sent, **points}.items():
            self.point(name, tensor)

    def point(self, name: str, tensor: Tensor) -> None:
        """Hands over a tensor, which C may write to if it is contiguous."""
        self.kept[name] = tensor.contiguous()
        setattr(self.tile, name, self.kept[name].data_ptr())

    def __iter__(self) -> Iterator[slice]:
        p, edges = self.p, self.pairs.edges
        for run, ways in self.pairs.tiles(self.size):
            self.tile.pairs, self.tile.ways = run.stop - run.start, len(ways)
            self.point("first", edges.receivers[run])
            self.point("second", edges.senders[run])
            self.point("envelope", p.envelope[run])
            self.point("directions", p.directions[run])
            self.point("before", product(p.encoded[run], p.weight, p.bias))
            self.slopes = p.query.new_empty(4, self.threads, run.stop - run.start)
            self.tile.by_envelope, self.tile.by_directions = (
                part.data_ptr() for part in self.slopes.split((1, 3))
            )
            yield run

    def collect(self, run: slice, wanted: Parts, total: Parts) -> None:
        """Adds up what C has left of a run for the derivatives by the radial part."""
        by_before, slopes = self.kept["before"], self.slopes
        if wanted.envelope:
            total.envelope[run] = slopes[0].sum(0)[:, None]
        if wanted.directions:
            total.directions[run] = slopes[1:].view(self.threads, -1, 3).sum(0)
        if wanted.weight:
            total.weight.add_(product(self.p.encoded[run].t(), by_before.t()).t())
        if wanted.bias:
            total.bias.add_(by_before.sum(0))
        if wanted.encoded:
            total.encoded[run] = product(by_before, self.p.weight.t())


def sums(library: ctypes.CDLL, p: Parts, pairs: Pairs, shape: Shape) -> Tensor:
    """(P, 4, H) the attention."""
    out = p.query.new_zeros(p.query.shape[0], 4, p.query.shape[1])
    loop = Loop(p, pairs, shape, sum=out)
    for _ in loop:
        library.messages(ctypes.byref(loop.tile))
    return out


def first(
    library: ctypes.CDLL, p: Parts, pairs: Pairs, shape: Shape, gradient: Tensor, wanted: Parts
) -> Parts:
    """The derivatives of sum(gradient * attention) by the parts, those of them that are wanted."""
    total = Parts(*(torch.zeros(part.shape, dtype=part.dtype) for part in p))
    points = {"gradient": gradient, "by_query": total.query, "by_sent": total.sent}
    loop = Loop(p, pairs, shape, **points)
    for run in loop:
        library.first(ctypes.byref(loop.tile))
        loop.collect(run, wanted, total)
    return total


def second(
    library: ctypes.CDLL,
    p: Parts,
    t: Parts,
    pairs: Pairs,
    shape: Shape,
    gradient: Tensor,
    wanted: Parts,
) -> tuple[Tensor, Parts]:
    """The derivatives of sum(:func:`first` * t), by the gradient and by the parts; W, b stay."""
    total = Parts(*(torch.zeros(part.shape, dtype=part.dtype) for part in p))
    by_gradient = torch.zeros(gradient.shape, dtype=gradient.dtype)
    points = {"gradient": gradient, "query_t": t.query, "sent_t": t.sent, "sum": by_gradient}
    loop = Loop(p, pairs, shape, by_query=total.query, by_sent=total.sent, **points)
    for run in loop:
        loop.point("envelope_t", t.envelope[run])
        loop.point("directions_t", t.directions[run])
        loop.point("before_t", product(t.encoded[run], p.weight))
        library.second(ctypes.byref(loop.tile))
        loop.collect(run, wanted, total)
        if wanted.weight:
            by_before_t = loop.kept["before_t"]
            total.weight.add_(product(t.encoded[run].t(), by_before_t.t()).t())
    return by_gradient, total
