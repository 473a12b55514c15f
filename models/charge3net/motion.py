"""The movable points of Neural Polarization (Kwak and Jo, eqs. 4-6) among ChargE3Net's atoms.

    x~_0 = x,   x~_{t+1} = x~_t + pi_t(v~_{t+1})                     movable
    x~_0 = .. = x~_{T-1} = x,   x~_T = x + pi(v_T)                   late

pi_t is one linear map without bias from the 1o features, which starts at zero. The papers leave
open at which x~_t a probe reads layer t: here at x~_T, for every layer.

A late point is our own, for a fraction of the price: atoms exchange messages as if there were none,
and the probes read every atom's features twice, at x and, by other weights, at x~_T. No pair that
exchanges messages can coincide, so that nothing needs softening.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.irreps import VECTOR, atom_layers
from neupol_cli.models.charge3net.linear import Features
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours
from neupol_cli.models.polarization import movable_edges


class Motion(nn.Module):
    """Where the senders are: the A atoms alone, or atoms and movable points.

    Attributes:
        doubled: whether the second points exchange messages with the atoms.
        restless: whether they do from another place after each layer.
        extra: whether probes read second points.
    """

    def __init__(self, config: ChargE3NetConfig) -> None:
        super().__init__()
        self.doubled = config.points_per_atom == 2
        moves = config.mode.moves
        self.restless = moves and self.doubled
        self.extra = config.mode.senders_per_atom == 2
        self.softening = config.softening
        # The first layer behind which points move.
        self.first = 0 if self.restless else config.layers - moves
        widths = [layer.outs[VECTOR] for layer in atom_layers(config)[self.first :]]
        self.maps = nn.ParameterList(nn.Parameter(torch.zeros(width, 1)) for width in widths)

    def step(self, layer: int, features: Features, moving: Tensor) -> Tensor:
        """x~_{t+1} (A, 3) from the features of all that exchange messages after a layer."""
        if layer < self.first:
            return moving
        vectors = features[VECTOR][-moving.shape[0] :]  # (A, 3, channels)
        weight = self.maps[layer - self.first]
        return moving + (vectors @ weight).squeeze(2) * weight.shape[0] ** -0.5

    def edges(self, graph: Graph, moving: Tensor, cutoff: float) -> Edges:
        """The edges among all senders, with the movable points at ``moving`` (A, 3)."""
        if self.doubled:
            return movable_edges(graph, moving, cutoff, self.softening)
        listed = neighbours(graph, graph.positions, cutoff)
        return Edges.of(listed, graph.positions, graph.batch, graph.cell)

    def points(self, graph: Graph, moving: Tensor) -> Graph:
        """The graph with all senders for its points: atoms, then movable points."""
        if not self.extra:
            return graph
        positions = torch.cat((graph.positions, moving))
        return replace(graph, positions=positions, batch=torch.cat((graph.batch, graph.batch)))
