"""What all layers of Equiformer read of the edges: harmonics and the radial basis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neupol_cli.models.distance import RadialBasisConfig
from neupol_cli.models.equiformer.config import EquiformerConfig
from neupol_cli.models.equiformer.kernels.choice import kernels_serve
from neupol_cli.models.equiformer.kernels.edge_frame import FramedEdges, Frames
from neupol_cli.models.equiformer.radial import radial_basis
from neupol_cli.models.nn.graph import Edges, where_true


@dataclass(frozen=True)
class EdgeFeatures:
    """What all layers read of E edges.

    Between two points that touch there is no frame: edges of theirs stand behind the others, and
    the formulas serve them.

    Attributes:
        receivers, senders: (E,).
        harmonics: (E, (lmax + 1)^2) Y of sender minus receiver.
        basis: (H, size) e(r) of the lengths that differ.
        rows: (E,) each edge's row of ``basis``.
        frames: the first of these edges as the kernels read them; None where the formulas serve.
        touching: the others.
    """

    receivers: Tensor
    senders: Tensor
    harmonics: Tensor
    basis: Tensor
    rows: Tensor
    frames: FramedEdges | None = None
    touching: EdgeFeatures | None = None


class Geometry(nn.Module):
    """Harmonics and the radial basis of edges: what all layers read, computed once."""

    def __init__(self, config: EquiformerConfig, lmax: int) -> None:
        super().__init__()
        self.frames = Frames(lmax)
        basis = RadialBasisConfig.of(config, config.cutoff)
        self.basis = radial_basis(config.encoding, basis)
        self.size = int(self.basis.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges) -> EdgeFeatures:
        fast = kernels_serve(edges)
        make = self._framed if fast else self.formula
        return edges.once(("equiformer", fast), lambda: make(edges))

    def formula(self, edges: Edges) -> EdgeFeatures:
        """Of edges that may have no length; no frames."""
        harmonics = self.frames.harmonics(edges.directions)
        rows = torch.arange(edges.receivers.shape[0], device=edges.receivers.device)
        return EdgeFeatures(edges.receivers, edges.senders, harmonics, self.basis(edges), rows)

    def _framed(self, edges: Edges) -> EdgeFeatures:
        index = where_true(edges.apart)  # the one number that a device is asked for is how many
        some = edges.select(index)
        some.both_ways = edges.both_ways  # an edge and its reverse are as long
        pairs = self.frames(some)
        apart = EdgeFeatures(
            pairs.receivers,
            pairs.senders,
            pairs.harmonics,
            self.basis(pairs.half),
            pairs.halves,
            pairs,
        )
        left = edges.receivers.shape[0] - index.shape[0]
        if not left:
            return apart
        touching = self.formula(edges.select(where_true(~edges.apart, left)))
        return EdgeFeatures(
            torch.cat((apart.receivers, touching.receivers)),
            torch.cat((apart.senders, touching.senders)),
            torch.cat((apart.harmonics, touching.harmonics)),
            torch.cat((apart.basis, touching.basis)),
            torch.cat((apart.rows, touching.rows + len(apart.basis))),
            pairs,
            touching,
        )
