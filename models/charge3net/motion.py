"""The movable points of Neural Polarization (Kwak and Jo, eqs. 4-6) among ChargE3Net's atoms.

    x~_0 = x,   x~_{t+1} = x~_t + pi_t(v~_{t+1})

pi_t is one linear map without bias from the 1o features, which starts at zero. The papers leave
open at which x~_t a probe reads layer t: here at x~_T, for every layer.
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
from neupol_cli.models.polarization_modes import polarization_mode


class Motion(nn.Module):
    """Where the senders are: the A atoms alone, or atoms and movable points."""

    def __init__(self, config: ChargE3NetConfig) -> None:
        super().__init__()
        self.doubled = config.points_per_atom == 2
        self.moves = polarization_mode(config.polarization).moves
        self.softening = config.softening
        layers = atom_layers(config) if self.moves else []
        widths = [layer.outs[VECTOR] for layer in layers]
        self.maps = nn.ParameterList(nn.Parameter(torch.zeros(width, 1)) for width in widths)

    def step(self, layer: int, features: Features, moving: Tensor) -> Tensor:
        """x~_{t+1} (A, 3) from the features of all 2A points after a layer."""
        if not self.moves:
            return moving
        vectors = features[VECTOR][moving.shape[0] :]  # (A, 3, channels)
        weight = self.maps[layer]
        return moving + (vectors @ weight).squeeze(2) * weight.shape[0] ** -0.5

    def edges(self, graph: Graph, moving: Tensor, cutoff: float) -> Edges:
        """The edges among all senders, with the movable points at ``moving`` (A, 3)."""
        if self.doubled:
            return movable_edges(graph, moving, cutoff, self.softening)
        listed = neighbours(graph, graph.positions, cutoff)
        return Edges.of(listed, graph.positions, graph.batch, graph.cell)

    def points(self, graph: Graph, moving: Tensor) -> Graph:
        """The graph with all senders for its points: atoms, then movable points."""
        if not self.doubled:
            return graph
        positions = torch.cat((graph.positions, moving))
        return replace(graph, positions=positions, batch=torch.cat((graph.batch, graph.batch)))
