"""The equivariant network's probes, with filters from tables: equal to ``received`` of painn.py.

What a message takes from its atom is made once an atom; the last layer's t is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from neupol_cli.models.deepdft.kernels.probe_edges import ProbeEdges
from neupol_cli.models.deepdft.kernels.probe_sums import ProbeSums, probe_sums
from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.linear import Perceptron, product

# Numbers of an edge that are no features: ends, place in the table, vectors.
GEOMETRY = 48


@dataclass(frozen=True)
class PaiNNProbeLayer:
    """A probe layer on the atoms of one structure.

    Attributes:
        offers: (A, 5, H) what atoms bring to messages.
        table: (2 bins, 3 H) of the filters of a, b and g.
        gate: ds -> logits of both gates.
        vector_maps: (2 H, H) W_U and W_V.
        mix: [s, |V|] -> (p, q, t).
        mixes: rows of its second map that somebody reads.
    """

    offers: Tensor
    table: Tensor
    gate: Perceptron
    vector_maps: Tensor
    mix: Perceptron
    mixes: int

    def step(self, sums: ProbeSums, own: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """s (R, H) and v (R, 3, H) after the layer; ``own`` is the state before, None for zeros."""
        ds, dv = sums.vector_sums(self.table, self.offers)
        s, v = sums.gated(self.gate(ds).sigmoid_(), own, ds, dv)
        both = product(v, self.vector_maps)  # (R, 3, 2 H) U and V
        lengths, dot = sums.lengths(both, s)
        second = self.mix.second
        hidden = functional.silu(self.mix.first(lengths))
        mixed = product(hidden, second.weight[: self.mixes], second.bias[: self.mixes])
        sums.updated(both, dot, mixed, s, v)
        return s, v


class PaiNNProbes:
    """Densities at the probes that a structure's atoms reach.

    Args:
        layers: the first to the last.
        readout: (R, H) last scalars -> (R,) e/Angstrom^3.
        cutoff: Angstrom.
    """

    def __init__(
        self, layers: list[PaiNNProbeLayer], readout: Callable[[Tensor], Tensor], cutoff: float
    ) -> None:
        self.layers, self.readout, self.cutoff = layers, readout, cutoff
        self.numbers_an_edge = GEOMETRY

    def density(self, edges: ProbeEdges) -> Tensor:
        """(R,) e/Angstrom^3."""
        first = self.layers[0]
        lookup = TableLookup.of(edges.lengths, first.table.shape[0] // 2, self.cutoff)
        sums = probe_sums(edges, lookup, first.table, first.offers.shape[2])
        state = first.step(sums, None)
        for layer in self.layers[1:]:
            state = layer.step(sums, state)
        return self.readout(state[0])
