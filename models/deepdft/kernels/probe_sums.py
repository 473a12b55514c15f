"""What DeepDFT's probes sum over their atoms, and the steps between: PyTorch's, or compiled."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.deepdft.kernels.choice import kernels
from neupol_cli.models.deepdft.kernels.probe_edges import ROUNDED, ProbeEdges
from neupol_cli.models.kernels.pointers import pointer, threads
from neupol_cli.models.nn.hermite import TableLookup

LN2 = math.log(2)


class ProbeSums:
    """The sums and steps in PyTorch's operations, on any device."""

    def __init__(self, edges: ProbeEdges, lookup: TableLookup) -> None:
        self.edges, self.lookup = edges, lookup

    def _sum(self, values: Tensor) -> Tensor:
        zeros = values.new_zeros(self.edges.size, *values.shape[1:])
        return zeros.index_add_(0, self.edges.receivers, values)

    def vector_sums(self, table: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """ds (R, H) and dv (R, 3, H).

        Args:
            table: (2 bins, 3 H) filters of a, b and g.
            source: (A, 5, H) s g, b, and the three components of v a.
        """
        own = source.index_select(0, self.edges.senders)
        a, b, g = self.lookup.read(table).chunk(3, 1)
        along = self.edges.directions[:, :, None] * (b * own[:, 1])[:, None]
        return self._sum(g * own[:, 0]), self._sum(along.addcmul_(own[:, 2:], a[:, None]))

    def gated(
        self, gates: Tensor, own: tuple[Tensor, Tensor] | None, ds: Tensor, dv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """s and v behind the gates (R, 2 H); ``own`` is the state before, None for zeros."""
        first, second = gates.chunk(2, 1)
        s, v = (1 - first) * ds, (1 - second)[:, None] * dv
        if own is None:
            return s, v
        return s.addcmul_(first, own[0]), v.addcmul_(second[:, None], own[1])

    def lengths(self, both: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 3, 2 H) U and V -> (R, 2 H) s and |V|, and (R, H) <U, V>."""
        left, right = both.chunk(2, 2)
        return torch.cat((s, right.square().sum(1).sqrt()), 1), (left * right).sum(1)

    def updated(self, both: Tensor, dot: Tensor, mixed: Tensor, s: Tensor, v: Tensor) -> None:
        """s += p + q <U, V>, v += t U in place; without t, v stays."""
        p, q, *t = mixed.split(s.shape[1], 1)
        s.add_(p).addcmul_(q, dot)
        if t:
            v.addcmul_(t[0][:, None], both.chunk(2, 2)[0])

    def pairs(self, own: Tensor, other: Tensor) -> Tensor:
        """(A, 2 H) of the senders and (R, 2 H) of the receivers -> (E, 2 H) ssp of their sum."""
        first = own.index_select(0, self.edges.senders)
        return functional.softplus(first.add_(other.index_select(0, self.edges.receivers))) - LN2

    def scalar_sums(self, table: Tensor, nodes: Tensor, by_atom: bool) -> Tensor:
        """(R, H) sums of nodes times filters; nodes are the edges' (E, H) or the atoms' (A, H)."""
        by_edge = nodes.index_select(0, self.edges.senders) if by_atom else nodes
        return self._sum(by_edge[: len(self.edges.senders)] * self.lookup.read(table))

    def softened(self, x: Tensor) -> Tensor:
        """softplus(x) - ln 2, of a matrix that may be a slice of columns; x may be overwritten."""
        return functional.softplus(x) - LN2


class _Places(ctypes.Structure):
    """As in deepdft_edges.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("starts", "senders", "left", "weights", "directions")
    )


class CompiledProbeSums(ProbeSums):
    """The same in one pass each: float32, on a CPU, contiguous, H a multiple of 16."""

    def __init__(self, edges: ProbeEdges, lookup: TableLookup, library: ctypes.CDLL) -> None:
        super().__init__(edges, lookup)
        self.library = library
        self.threads, self.points = threads(), ctypes.c_long(edges.size)
        self.alive = (  # as long as the pointers to them
            edges.starts, edges.senders, lookup.left,
            lookup.weights.contiguous(), edges.directions.contiguous(),
        )  # fmt: skip
        self.places = ctypes.byref(_Places(*(tensor.data_ptr() for tensor in self.alive)))

    def vector_sums(self, table: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        hidden = source.shape[2]
        ds = source.new_empty(self.edges.size, hidden)
        dv = source.new_empty(self.edges.size, 3, hidden)
        arguments = map(pointer, (table, source, ds, dv))
        self.library.vector_sums(self.threads, self.points, self.places, *arguments)
        return ds, dv

    def gated(
        self, gates: Tensor, own: tuple[Tensor, Tensor] | None, ds: Tensor, dv: Tensor
    ) -> tuple[Tensor, Tensor]:
        s, v = own or (None, None)
        arguments = map(pointer, (gates, s, v, ds, dv))
        self.library.gated(self.threads, self.points, *arguments)
        return ds, dv

    def lengths(self, both: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        pair, dot = both.new_empty(s.shape[0], 2 * s.shape[1]), torch.empty_like(s)
        arguments = map(pointer, (both, s, pair, dot))
        self.library.lengths(self.threads, self.points, *arguments)
        return pair, dot

    def updated(self, both: Tensor, dot: Tensor, mixed: Tensor, s: Tensor, v: Tensor) -> None:
        moves = v if mixed.shape[1] == 3 * s.shape[1] else None
        arguments = map(pointer, (both, dot, mixed, s, moves))
        self.library.updated(self.threads, self.points, *arguments)

    def pairs(self, own: Tensor, other: Tensor) -> Tensor:
        edges = self.edges.senders.shape[0]
        out = own.new_empty(-(-edges // ROUNDED) * ROUNDED, own.shape[1])
        out[edges:] = 0.0
        arguments = (pointer(own), pointer(other), ctypes.c_long(other.stride(0)), pointer(out))
        self.library.pairs(self.threads, self.points, self.places, *arguments)
        return out

    def scalar_sums(self, table: Tensor, nodes: Tensor, by_atom: bool) -> Tensor:
        out = nodes.new_empty(self.edges.size, nodes.shape[1])
        arguments = (pointer(table), pointer(nodes), ctypes.c_long(by_atom), pointer(out))
        self.library.scalar_sums(self.threads, self.points, self.places, *arguments)
        return out

    def softened(self, x: Tensor) -> Tensor:
        sizes = (ctypes.c_long(n) for n in (x.shape[0], x.stride(0), x.shape[1]))
        self.library.softened(self.threads, *sizes, pointer(x))
        return x


def probe_sums(edges: ProbeEdges, lookup: TableLookup, like: Tensor, hidden: int) -> ProbeSums:
    """The compiled loops where they can serve, else PyTorch's operations."""
    library = kernels(like, hidden).library
    return (
        ProbeSums(edges, lookup) if library is None else CompiledProbeSums(edges, lookup, library)
    )
