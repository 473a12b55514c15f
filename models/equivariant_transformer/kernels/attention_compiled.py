"""The equivariant transformer's attention in one compiled loop over pairs.

fused/vector_attention.cpp has the sums and derivatives of attention_tiles.py, for float32
and float64 on a CPU. What is left for PyTorch are the matrix products of the radial part, a tile of
pairs at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.equivariant_transformer.kernels.attention_radial import (
    Gradient,
    Parts,
    Shape,
)
from neupol_cli.models.equivariant_transformer.pairs import Pairs
from neupol_cli.models.kernels import compiler as fused
from neupol_cli.models.nn.linear import by_weight, product

SOURCE = Path(__file__).with_name("vector_attention.cpp")
# Numbers of a tile's radial part, four megabytes in float32: smaller ones stay in smaller caches,
# but the products of larger ones are faster, and so fewer (2**17 took 8 % longer on QM9).
TILE_NUMBERS = 2**20

COUNTS = ("pairs", "ways", "threads", "stride", "stride_t")
POINTERS = (
    *("first", "second", "envelope", "envelope_t", "directions", "directions_t"),
    *("points", "points_t", "vectors", "vectors_t", "gradient_x", "gradient_y"),
    *("before", "before_t", "sum_x", "sum_y", "by_points", "by_vectors"),
    *("by_bias", "by_envelope", "by_directions"),
)


class Tile(ctypes.Structure):
    """The struct of the same name: counts, and pointers to contiguous numbers."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in COUNTS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def library(points: Tensor, shape: Shape) -> ctypes.CDLL | None:
    """The loops for points (P, 4 H) of this width and type, or None where there are none."""
    sizes = {"HIDDEN": points.shape[1] // 4, "HEADS": shape.heads, "SMOOTH": int(shape.smooth)}
    return fused.library_for(SOURCE, points, sizes)


class Loop:
    """A pass over all pairs, tile by tile; ``whole`` is what C reads or adds to for every tile.

    Iterated, it yields the runs of pairs. The derivatives by C and u, which are sums over features
    and so over threads, are made only if they are ``wanted``: each thread has its own to write to.
    """

    def __init__(
        self, p: Parts, pairs: Pairs, shape: Shape, wanted: Parts | None = None, **whole: Tensor
    ) -> None:
        self.p, self.pairs, self.slopes = p, pairs, {}
        if wanted is not None and wanted.envelope:
            self.slopes["by_envelope"] = 1
        if wanted is not None and wanted.directions:
            self.slopes["by_directions"] = 3
        self.threads = min(torch.get_num_threads(), shape.heads)
        self.size = max(TILE_NUMBERS // p.weight.shape[0], 16)
        self.tile = Tile(threads=self.threads)
        self.kept: dict[str, Tensor] = {}  # for as long as C has their addresses
        self.tile.stride = self.rows("points", p.points)
        self.hand("vectors", p.vectors)
        for name, tensor in whole.items():
            self.hand(name, tensor)

    def hand(self, name: str, tensor: Tensor) -> None:
        """Hands over a tensor, which C may write to if it is contiguous; null if it is empty."""
        self.kept[name] = tensor.contiguous()
        setattr(self.tile, name, self.kept[name].data_ptr() if tensor.numel() else None)

    def rows(self, name: str, tensor: Tensor) -> int:
        """Hands over a table (P, 4 H), a part of a wider one perhaps; the width of that one."""
        self.kept[name] = tensor if tensor.stride(1) == 1 else tensor.contiguous()
        setattr(self.tile, name, self.kept[name].data_ptr())
        return self.kept[name].stride(0)

    def __iter__(self) -> Iterator[slice]:
        p, edges = self.p, self.pairs.edges
        for run, ways in self.pairs.tiles(self.size):
            self.tile.pairs, self.tile.ways = run.stop - run.start, len(ways)
            self.hand("first", edges.receivers[run])
            self.hand("second", edges.senders[run])
            self.hand("envelope", p.envelope[run])
            self.hand("directions", p.directions[run])
            self.hand("before", product(p.encoded[run], p.weight, p.bias))
            for name, width in self.slopes.items():
                self.hand(name, p.points.new_empty(self.threads, run.stop - run.start, width))
            yield run

    def collect(self, run: slice, wanted: Parts, total: Parts) -> None:
        """Adds up what C has left of a run for the derivatives by the radial part."""
        by_before = self.kept["before"]
        if wanted.envelope:
            total.envelope[run] = self.kept["by_envelope"].sum(0)
        if wanted.directions:
            total.directions[run] = self.kept["by_directions"].sum(0)
        if wanted.weight:
            total.weight.add_(by_weight(by_before, self.p.encoded[run]))
        if wanted.encoded:
            total.encoded[run] = product(by_before, self.p.weight.t())


def sums(library: ctypes.CDLL, p: Parts, pairs: Pairs, shape: Shape) -> tuple[Tensor, Tensor]:
    """X (P, H) and Y (P, 3, H)."""
    points, hidden = p.points.shape[0], p.points.shape[1] // 4
    x, y = p.points.new_zeros(points, hidden), p.points.new_zeros(points, 3, hidden)
    loop = Loop(p, pairs, shape, sum_x=x, sum_y=y)
    for _ in loop:
        library.messages(ctypes.byref(loop.tile))
    return x, y


def first(
    library: ctypes.CDLL, p: Parts, pairs: Pairs, shape: Shape, g: Gradient, wanted: Parts
) -> Parts:
    """The derivatives of sum(g * attention) by the parts, those of them that are wanted."""
    total = zeros(p, wanted)
    loop = Loop(p, pairs, shape, wanted, **_answers(g, total, wanted))
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
    g: Gradient,
    wanted: Parts,
) -> tuple[Gradient, Parts]:
    """The derivatives of sum(:func:`first` * t), by the gradient and by the parts; W, b stay."""
    total = zeros(p, wanted)
    by_x, by_y = (part.new_zeros(part.shape) for part in g)
    whole = {"vectors_t": t.vectors, "sum_x": by_x, "sum_y": by_y}
    loop = Loop(p, pairs, shape, wanted, **whole, **_answers(g, total, wanted))
    loop.tile.stride_t = loop.rows("points_t", t.points)
    for run in loop:
        loop.hand("envelope_t", t.envelope[run])
        loop.hand("directions_t", t.directions[run])
        loop.hand("before_t", product(t.encoded[run], p.weight))
        library.second(ctypes.byref(loop.tile))
        loop.collect(run, wanted, total)
        if wanted.weight:
            total.weight.add_(by_weight(loop.kept["before_t"], t.encoded[run]))
    return (by_x, by_y), total


def zeros(p: Parts, wanted: Parts) -> Parts:
    """Where derivatives are added up, contiguous for C; nothing for those that nobody wants."""
    needed = wanted._replace(points=True, vectors=True)  # type: ignore[arg-type]
    return Parts(
        *(
            part.new_zeros(part.shape if need else (0,))
            for part, need in zip(p, needed, strict=True)
        )
    )


def _answers(g: Gradient, total: Parts, wanted: Parts) -> dict[str, Tensor]:
    """What both derivatives read and add to."""
    answers = {"by_bias": total.bias} if wanted.bias else {}
    answers |= {"by_points": total.points, "by_vectors": total.vectors}
    return answers | {"gradient_x": g[0], "gradient_y": g[1]}
