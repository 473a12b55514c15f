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
# Numbers of a tile's radial part, two megabytes in float32: smaller ones stay in smaller caches,
# but the products of larger ones are faster, and so fewer (2**17 took 8 % longer on QM9).
TILE_NUMBERS = 2**19

COUNTS = ("pairs", "ways", "vectors", "threads")
POINTERS = (
    *("first", "second", "envelope", "envelope_t", "directions", "directions_t"),
    *("query", "query_t", "sent", "sent_t", "gradient", "before", "before_t"),
    *("sum", "by_query", "by_sent", "by_bias", "by_envelope", "by_directions"),
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

    Iterated, it yields the runs of pairs. The derivatives by C and u, which are sums over features
    and so over threads, are made only if they are ``wanted``: each thread has its own to write to.
    """

    def __init__(
        self, p: Parts, pairs: Pairs, shape: Shape, wanted: Parts | None = None, **points: Tensor
    ) -> None:
        self.p, self.pairs, self.slopes = p, pairs, {}
        if wanted is not None and wanted.envelope:
            self.slopes["by_envelope"] = 1
        if wanted is not None and wanted.directions:
            self.slopes["by_directions"] = 3
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
            for name, width in self.slopes.items():
                self.point(name, p.query.new_empty(self.threads, run.stop - run.start, width))
            yield run

    def collect(self, run: slice, wanted: Parts, total: Parts) -> None:
        """Adds up what C has left of a run for the derivatives by the radial part."""
        by_before = self.kept["before"]
        if wanted.envelope:
            total.envelope[run] = self.kept["by_envelope"].sum(0)
        if wanted.directions:
            total.directions[run] = self.kept["by_directions"].sum(0)
        if wanted.weight:
            total.weight.add_(product(self.p.encoded[run].t(), by_before.t()).t())
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
    if wanted.bias:
        points["by_bias"] = total.bias
    loop = Loop(p, pairs, shape, wanted, **points)
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
    points = {"gradient": gradient, "by_query": total.query, "by_sent": total.sent}
    points |= {"query_t": t.query, "sent_t": t.sent, "sum": by_gradient}
    if wanted.bias:
        points["by_bias"] = total.bias
    loop = Loop(p, pairs, shape, wanted, **points)
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
