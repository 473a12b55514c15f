"""What DeepDFT's probes sum over their atoms: by fused/deepdft_edges.cpp or by PyTorch."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neupol_cli.models import fused
from neupol_cli.models.graph import segment_sum
from neupol_cli.models.probes import Tile
from neupol_cli.models.radial_table import Spots

SOURCE = fused.HERE / "deepdft_edges.cpp"
# oneDNN compiles a product anew for every number of rows: points are rounded up to multiples.
ROUNDED = 64
# A probe on a nucleus has no direction to it, and positions in float32 are only so exact, Angstrom.
NUCLEUS = 1e-5
LN2 = math.log(2)


@dataclass(frozen=True)
class Reached:
    """Those probes of a tile that an atom reaches, and their edges, sorted by probe.

    Attributes:
        probes: (P,) which of the tile's they are.
        starts: (R + 1,) the edges of point p are starts[p]:starts[p + 1]; the R - P points that
            fill the last multiple of ROUNDED have none.
        senders, receivers: (E,) atoms and points.
        lengths: (E,) Angstrom. directions: (E, 3) from atom to probe.
    """

    probes: Tensor
    starts: Tensor
    senders: Tensor
    receivers: Tensor
    lengths: Tensor
    directions: Tensor

    @classmethod
    def of(cls, tile: Tile, dtype: torch.dtype) -> Reached:
        """The edges of a tile, in the network's type of number."""
        receivers, device = tile.receivers, tile.rows.device
        order = torch.argsort(receivers, stable=True)
        owners = torch.tensor(tile.owners, dtype=torch.long, device=device)
        counts = torch.tensor(tile.counts, dtype=torch.long, device=device)
        senders = owners.repeat_interleave(counts)
        vectors = tile.vectors.index_select(0, order).to(dtype)
        counts = torch.bincount(receivers, minlength=tile.rows.shape[0])
        probes = counts.nonzero().squeeze(1)
        size = -(-probes.shape[0] // ROUNDED) * ROUNDED
        starts = torch.full((size + 1,), receivers.shape[0], device=device)
        starts[0] = 0
        counts = counts[probes]
        starts[1 : probes.shape[0] + 1] = counts.cumsum(0)
        points = torch.arange(probes.shape[0], device=device).repeat_interleave(counts)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        apart = lengths > NUCLEUS
        directions = vectors / torch.where(apart, lengths, 1.0)[:, None] * apart[:, None]
        return cls(probes, starts, senders.index_select(0, order), points, lengths, directions)

    @property
    def size(self) -> int:
        """R, how many points there are."""
        return self.starts.shape[0] - 1


class Plain:
    """The sums and steps in PyTorch's operations, on any device."""

    def __init__(self, edges: Reached, spots: Spots) -> None:
        self.edges, self.spots = edges, spots

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
        a, b, g = self.spots.read(table).chunk(3, 1)
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
        each = nodes.index_select(0, self.edges.senders) if by_atom else nodes
        return self._sum(each[: len(self.edges.senders)] * self.spots.read(table))

    def softened(self, x: Tensor) -> Tensor:
        """softplus(x) - ln 2, of a matrix that may be a slice of columns; x may be overwritten."""
        return functional.softplus(x) - LN2


class _Places(ctypes.Structure):
    """As in fused/deepdft_edges.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("starts", "senders", "left", "weights", "directions")
    )


def _threads() -> ctypes.c_long:
    return ctypes.c_long(torch.get_num_threads())


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class Compiled(Plain):
    """The same in one pass each: float32, on a CPU, contiguous, H a multiple of 16."""

    def __init__(self, edges: Reached, spots: Spots, library: ctypes.CDLL) -> None:
        super().__init__(edges, spots)
        self.library = library
        self.threads, self.points = _threads(), ctypes.c_long(edges.size)
        self.kept = (
            edges.starts, edges.senders, spots.left,
            spots.weights.contiguous(), edges.directions.contiguous(),
        )  # fmt: skip
        self.places = ctypes.byref(_Places(*(each.data_ptr() for each in self.kept)))

    def vector_sums(self, table: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        hidden = source.shape[2]
        ds = source.new_empty(self.edges.size, hidden)
        dv = source.new_empty(self.edges.size, 3, hidden)
        each = (_at(item) for item in (table, source, ds, dv))
        self.library.vector_sums(self.threads, self.points, self.places, *each)
        return ds, dv

    def gated(
        self, gates: Tensor, own: tuple[Tensor, Tensor] | None, ds: Tensor, dv: Tensor
    ) -> tuple[Tensor, Tensor]:
        s, v = own or (None, None)
        each = (_at(item) for item in (gates, s, v, ds, dv))
        self.library.gated(self.threads, self.points, *each)
        return ds, dv

    def lengths(self, both: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        pair, dot = both.new_empty(s.shape[0], 2 * s.shape[1]), torch.empty_like(s)
        each = (_at(item) for item in (both, s, pair, dot))
        self.library.lengths(self.threads, self.points, *each)
        return pair, dot

    def updated(self, both: Tensor, dot: Tensor, mixed: Tensor, s: Tensor, v: Tensor) -> None:
        moves = v if mixed.shape[1] == 3 * s.shape[1] else None
        each = (_at(item) for item in (both, dot, mixed, s, moves))
        self.library.updated(self.threads, self.points, *each)

    def pairs(self, own: Tensor, other: Tensor) -> Tensor:
        edges = self.edges.senders.shape[0]
        out = own.new_empty(-(-edges // ROUNDED) * ROUNDED, own.shape[1])
        out[edges:] = 0.0
        each = (_at(own), _at(other), ctypes.c_long(other.stride(0)), _at(out))
        self.library.pairs(self.threads, self.points, self.places, *each)
        return out

    def scalar_sums(self, table: Tensor, nodes: Tensor, by_atom: bool) -> Tensor:
        out = nodes.new_empty(self.edges.size, nodes.shape[1])
        each = (_at(table), _at(nodes), ctypes.c_long(by_atom), _at(out))
        self.library.scalar_sums(self.threads, self.points, self.places, *each)
        return out

    def softened(self, x: Tensor) -> Tensor:
        sizes = (ctypes.c_long(n) for n in (x.shape[0], x.stride(0), x.shape[1]))
        self.library.softened(self.threads, *sizes, _at(x))
        return x


@dataclass(frozen=True)
class Ends:
    """Whom the edges of a step of training join, in any order.

    senders, receivers: (E,). directions: (E, 3) to the receiver. count: R receivers.
    """

    senders: Tensor
    receivers: Tensor
    directions: Tensor
    count: int

    def dense(self) -> Ends:
        """The same, every tensor's numbers one behind the other."""
        s, r, d = (each.contiguous() for each in (self.senders, self.receivers, self.directions))
        return Ends(s, r, d, self.count)


def messages(filters: Tensor, offers: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    """ds (R, H) and dv (R, 3, H): the equivariant messages, differentiable.

    Args:
        filters: (E, 3 H) of a, b and g.
        offers: (A, 5, H) s g, b, and the three components of v a.
        ends: whom the edges join.
    """
    hidden = offers.shape[2]
    library = None if ends.directions.requires_grad else _library(offers, hidden)
    if library is not None:
        found: tuple[Tensor, Tensor] = _Messages.apply(filters, offers, ends.dense(), library)
        return found
    own = offers.index_select(0, ends.senders)
    a, b, g = filters.chunk(3, 1)
    along = ends.directions[:, :, None] * (b * own[:, 1])[:, None]
    scalars = segment_sum(g * own[:, 0], ends.receivers, ends.count)
    return scalars, segment_sum(along + own[:, 2:] * a[:, None], ends.receivers, ends.count)


class _Messages(torch.autograd.Function):
    """The same, and its derivative, in one pass each."""

    @staticmethod
    def forward(
        ctx: Any, filters: Tensor, offers: Tensor, ends: Ends, library: ctypes.CDLL
    ) -> tuple[Tensor, Tensor]:
        filters, offers = filters.contiguous(), offers.contiguous()
        out = offers.new_zeros(ends.count, 4, offers.shape[2])
        ctx.ends, ctx.library = ends, library
        ctx.save_for_backward(filters, offers)
        library.messages(*_joined(ends), _at(filters), _at(offers), _at(out))
        return out[:, 0], out[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        filters, offers = ctx.saved_tensors
        by_out = torch.cat((gradients[0][:, None], gradients[1]), 1)  # (R, 4, H)
        by_filters, by_offers = torch.empty_like(filters), torch.zeros_like(offers)
        each = (filters, offers, by_out, by_filters, by_offers)
        ctx.library.messages_back(*_joined(ctx.ends), *map(_at, each))
        return by_filters, by_offers, None, None


def _joined(ends: Ends) -> tuple[Any, ...]:
    return (
        _threads(),
        ctypes.c_long(ends.senders.shape[0]),
        _at(ends.senders),
        _at(ends.receivers),
        _at(ends.directions),
    )


def _library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    if like.device.type != "cpu" or like.dtype != torch.float32 or hidden % 16:
        return None
    return fused.library(SOURCE, {"HIDDEN": hidden})


def sums(edges: Reached, spots: Spots, like: Tensor, hidden: int) -> Plain:
    """The compiled loops where they can serve, else PyTorch's."""
    library = _library(like, hidden)
    return Plain(edges, spots) if library is None else Compiled(edges, spots, library)
