"""The edges to the probes of a tile, in the order in which kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.nn.graph import counted

# oneDNN compiles a product anew for every number of rows: points are rounded up to multiples.
ROUNDED = 64
# A probe on a nucleus has no direction to it, and positions in float32 are only so exact, Angstrom.
NUCLEUS = 1e-5


@dataclass(frozen=True)
class ProbeEdges:
    """Those probes of a tile that an atom reaches, and their edges, sorted by probe.

    Attributes:
        probes: (P,) which of the tile's they are.
        starts: (R + 1,) the edges of point p are starts[p]:starts[p + 1]; the R - P points that
            fill the last multiple of ROUNDED have none.
        senders: (E,) atoms.
        receivers: (E,) points.
        lengths: (E,) Angstrom.
        directions: (E, 3) from atom to probe.
    """

    probes: Tensor
    starts: Tensor
    senders: Tensor
    receivers: Tensor
    lengths: Tensor
    directions: Tensor

    @classmethod
    def of(cls, tile: Tile, dtype: torch.dtype) -> ProbeEdges:
        """The edges of a tile, in the network's type of number."""
        order = torch.argsort(tile.receivers, stable=True)
        vectors = tile.vectors.index_select(0, order).to(dtype)
        probes, starts, receivers = _points(tile.receivers, tile.rows.shape[0])
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        apart = lengths > NUCLEUS
        directions = vectors / torch.where(apart, lengths, 1.0)[:, None] * apart[:, None]
        senders = tile.senders.index_select(0, order)
        return cls(probes, starts, senders, receivers, lengths, directions)

    @property
    def size(self) -> int:
        """R, how many points there are."""
        return self.starts.shape[0] - 1


class ProbeEvaluator(Protocol):
    """One structure's densities at points that its atoms reach; several threads at once.

    Attributes:
        numbers_an_edge: that are held for an edge by the compiled loops.
    """

    numbers_an_edge: int

    def density(self, edges: ProbeEdges) -> Tensor:
        """(R,) e/Angstrom^3 at R points."""


def _points(receivers: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """``probes``, ``starts`` and the sorted edges' points, from each edge's row in the tile."""
    counts = counted(receivers, rows)
    probes = counts.nonzero().squeeze(1)
    counts = counts[probes]
    size = -(-probes.shape[0] // ROUNDED) * ROUNDED
    starts = torch.full((size + 1,), receivers.shape[0], device=receivers.device)
    starts[0] = 0
    starts[1 : probes.shape[0] + 1] = counts.cumsum(0)
    points = torch.arange(probes.shape[0], device=receivers.device)
    points = points.repeat_interleave(counts, output_size=receivers.shape[0])
    return probes, starts, points
