"""The equivariant transformer's attention in one compiled loop over pairs.

vector_attention.cpp has the sums and derivatives of attention_tiled.py, for float32
and float64 on a CPU. What is left for PyTorch are the matrix products of the radial part, a tile of
pairs at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels.tile_radial import Gradient
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.linear import by_weight, product
from neupol_cli.models.nn.unique_edges import UniqueEdges

SOURCE = Path(__file__).with_name("vector_attention.cpp")
# Numbers of a tile's radial part, four megabytes in float32: smaller ones stay in smaller caches,
# but the products of larger ones are faster, and so fewer (2**17 took 8 % longer on QM9).
TILE_NUMBERS = 2**20

COUNTS = ("pairs", "ways", "kinds", "copies", "threads", "stride", "stride_t")
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


def library(points: Tensor, shape: AttentionShape) -> ctypes.CDLL | None:
    """The loops for points (P, 4 H) of this width and type, or None where there are none."""
    sizes = {
        "HIDDEN": points.shape[1] // 4,
        "HEADS": shape.heads,
        "SMOOTH": int(shape.vector_cutoff),
    }
    return compiler.library_for(SOURCE, points, sizes)


class Loop:
    """A pass over all pairs, tile by tile; ``whole`` is what C reads or adds to for every tile.

    Iterated, it yields the runs of pairs. The derivatives by C and u, which are sums over features
    and so over threads, are made only if they are ``needed``: each thread has its own to write to.
    """

    def __init__(
        self,
        p: MessageInputs,
        edges: UniqueEdges,
        shape: AttentionShape,
        needed: MessageInputs | None = None,
        **whole: Tensor,
    ) -> None:
        self.p, self.edges, self.slopes = p, edges, {}
        if needed is not None and needed.envelope:
            self.slopes["by_envelope"] = 1
        if needed is not None and needed.directions:
            self.slopes["by_directions"] = 3
        self.threads = min(torch.get_num_threads(), shape.heads)
        self.size = max(TILE_NUMBERS // p.weight.shape[0], 16)
        self.tile = Tile(threads=self.threads, kinds=edges.kinds, copies=edges.copies)
        self.passed: dict[str, Tensor] = {}  # for as long as C has their addresses
        self.tile.stride = self.rows("points", p.points)
        self.hand("vectors", p.vectors)
        for name, tensor in whole.items():
            self.hand(name, tensor)

    def hand(self, name: str, tensor: Tensor) -> None:
        """Hands over a tensor, which C may write to if it is contiguous; null if it is empty."""
        self.passed[name] = tensor.contiguous()
        setattr(self.tile, name, self.passed[name].data_ptr() if tensor.numel() else None)

    def rows(self, name: str, tensor: Tensor) -> int:
        """Hands over a table (P, 4 H), a part of a wider one perhaps; the width of that one."""
        self.passed[name] = tensor if tensor.stride(1) == 1 else tensor.contiguous()
        setattr(self.tile, name, self.passed[name].data_ptr())
        return self.passed[name].stride(0)

    def __iter__(self) -> Iterator[slice]:
        p, unique = self.p, self.edges.edges
        for run, directions in self.edges.tiles(self.size):
            self.tile.pairs = run.stop - run.start
            self.tile.ways = len(directions) // self.edges.kinds
            self.hand("first", unique.receivers[run])
            self.hand("second", unique.senders[run])
            self.hand("envelope", p.envelope[run])
            self.hand("directions", p.directions[run])
            self.hand("before", product(p.encoded[run], p.weight, p.bias))
            for name, width in self.slopes.items():
                self.hand(name, p.points.new_empty(self.threads, run.stop - run.start, width))
            yield run

    def collect(self, run: slice, needed: MessageInputs, total: MessageInputs) -> None:
        """Adds up what C has left of a run for the derivatives by the radial part."""
        by_before = self.passed["before"]
        if needed.envelope:
            total.envelope[run] = self.passed["by_envelope"].sum(0)
        if needed.directions:
            total.directions[run] = self.passed["by_directions"].sum(0)
        if needed.weight:
            total.weight.add_(by_weight(by_before, self.p.encoded[run]))
        if needed.encoded:
            total.encoded[run] = product(by_before, self.p.weight.t())


def sums(
    library: ctypes.CDLL, p: MessageInputs, edges: UniqueEdges, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    """X (P, H) and Y (P, 3, H)."""
    points, hidden = p.points.shape[0], p.points.shape[1] // 4
    x, y = p.points.new_zeros(points, hidden), p.points.new_zeros(points, 3, hidden)
    loop = Loop(p, edges, shape, sum_x=x, sum_y=y)
    for _ in loop:
        library.messages(ctypes.byref(loop.tile))
    return x, y


def first(
    library: ctypes.CDLL,
    p: MessageInputs,
    edges: UniqueEdges,
    shape: AttentionShape,
    g: Gradient,
    needed: MessageInputs,
) -> MessageInputs:
    """The derivatives of sum(g * attention) by the parts, those of them that are needed."""
    total = zeros(p, needed)
    loop = Loop(p, edges, shape, needed, **_derivatives(g, total, needed))
    for run in loop:
        library.first(ctypes.byref(loop.tile))
        loop.collect(run, needed, total)
    return total


def second(
    library: ctypes.CDLL,
    p: MessageInputs,
    t: MessageInputs,
    edges: UniqueEdges,
    shape: AttentionShape,
    g: Gradient,
    needed: MessageInputs,
) -> tuple[Gradient, MessageInputs]:
    """The derivatives of sum(:func:`first` * t), by the gradient and by the parts; W, b stay."""
    total = zeros(p, needed)
    by_x, by_y = (part.new_zeros(part.shape) for part in g)
    whole = {"vectors_t": t.vectors, "sum_x": by_x, "sum_y": by_y}
    loop = Loop(p, edges, shape, needed, **whole, **_derivatives(g, total, needed))
    loop.tile.stride_t = loop.rows("points_t", t.points)
    for run in loop:
        loop.hand("envelope_t", t.envelope[run])
        loop.hand("directions_t", t.directions[run])
        loop.hand("before_t", product(t.encoded[run], p.weight))
        library.second(ctypes.byref(loop.tile))
        loop.collect(run, needed, total)
        if needed.weight:
            total.weight.add_(by_weight(loop.passed["before_t"], t.encoded[run]))
    return (by_x, by_y), total


def zeros(p: MessageInputs, needed: MessageInputs) -> MessageInputs:
    """Where derivatives are added up, contiguous for C; nothing for those that nobody wants."""
    needed = needed._replace(points=True, vectors=True)  # type: ignore[arg-type]
    return MessageInputs(
        *(
            part.new_zeros(part.shape if need else (0,))
            for part, need in zip(p, needed, strict=True)
        )
    )


def _derivatives(g: Gradient, total: MessageInputs, needed: MessageInputs) -> dict[str, Tensor]:
    """What both derivatives read and add to."""
    answers = {"by_bias": total.bias} if needed.bias else {}
    answers |= {"by_points": total.points, "by_vectors": total.vectors}
    return answers | {"gradient_x": g[0], "gradient_y": g[1]}
