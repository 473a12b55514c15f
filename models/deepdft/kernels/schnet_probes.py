"""The invariant network's probes, with filters from tables: equal to ``received`` of schnet.py.

Probes begin with s = 0: the first layer's messages and gate are functions of the atoms and of
nothing, made once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.deepdft.kernels.probe_edges import ProbeEdges
from neupol_cli.models.deepdft.kernels.probe_sums import ProbeSums, probe_sums
from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.linear import Linear, Perceptron, product


@dataclass(frozen=True)
class SchNetProbeLayer:
    """A probe layer on the atoms of one structure.

    Attributes:
        own: (A, 2 H) the senders' part of L[s_j, s_i].
        receiver: (2 H, H) the receivers' map in it.
        second: from ssp of the sum to the message.
        table: (2 bins, H) of the filter.
        gate, transition: L(ssp(L(.))).
    """

    own: Tensor
    receiver: Tensor
    second: Linear
    table: Tensor
    gate: Perceptron
    transition: Perceptron

    def step(self, sums: ProbeSums, s: Tensor) -> Tensor:
        """(R, H) -> (R, H)."""
        pairs = sums.pairs(self.own, product(s, self.receiver))  # (E, 2 H)
        message = sums.scalar_sums(self.table, self.second(pairs), False)
        new = _softened(self.transition, message, sums)
        return torch.lerp(new, s, _softened(self.gate, s, sums).sigmoid_())


class SchNetProbes:
    """Densities at the probes that a structure's atoms reach.

    Args:
        layers: the first to the last.
        readout: the two maps behind them.
        cutoff: Angstrom.
    """

    def __init__(
        self, layers: list[SchNetProbeLayer], readout: tuple[Linear, Linear], cutoff: float
    ) -> None:
        self.layers, self.readout, self.cutoff = layers, readout, cutoff
        first = layers[0]
        self.numbers_an_edge = 4 * first.own.shape[1]  # pairs, and what becomes of them
        self.nodes = first.second(first.transition.activation(first.own))  # (A, H)
        self.gate = torch.sigmoid(first.gate(self.nodes.new_zeros(1, self.nodes.shape[1])))

    def density(self, edges: ProbeEdges) -> Tensor:
        """(R,) e/Angstrom^3."""
        first = self.layers[0]
        lookup = TableLookup.of(edges.lengths, first.table.shape[0] // 2, self.cutoff)
        sums = probe_sums(edges, lookup, first.table, self.nodes.shape[1])
        message = sums.scalar_sums(first.table, self.nodes, True)
        s = _softened(first.transition, message, sums) * (1 - self.gate)
        for layer in self.layers[1:]:
            s = layer.step(sums, s)
        before, last = self.readout
        return last(sums.softened(before(s))).squeeze(1)


def _softened(layers: Perceptron, x: Tensor, sums: ProbeSums) -> Tensor:
    """L(ssp(L(x)))."""
    return layers.second(sums.softened(layers.first(x)))
