"""R(r) of all probe layers from tables of cubic Hermite pieces, in place of a network an edge.

Predictions with the same weights share one table, whose error is measured. A step of training
makes a new one: its network is evaluated, and differentiated, at the nodes alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neupol_cli.models.charge3net.probe_stack import ProbeStack
from neupol_cli.models.charge3net.radial import (
    GaussianBasis,
    RadialTable,
    bins_for,
    checked_table,
    nodes_for,
)
from neupol_cli.models.kernels.made_of_weights import MadeOfWeights
from neupol_cli.models.nn.hermite import TableLookup

# Angstrom between the nodes of the table that a step of training makes.
TRAINING_STEP = 4.0 / 512
# What a value of a prediction's table may be wrong by, relative to its curve's largest value.
TABLE_ERROR = 1e-7


class PredictionTable(MadeOfWeights[RadialTable]):
    """The table of R(r) for predictions, made anew when the weights behind it change."""

    @torch.no_grad()
    def of(self, probes: ProbeStack, basis: GaussianBasis) -> RadialTable:
        """In the weights' type, as ``ProbeStack.radial`` to ``TABLE_ERROR``."""
        radial = probes.radial
        weights = torch.cat([w.flatten() for w in (*radial.parameters(), *basis.buffers())])

        def make() -> RadialTable:
            rows = checked_table(radial, basis, TABLE_ERROR).to(weights)
            return RadialTable(rows, probes.channels)

        return self.get(weights, make)


def step_radial(
    probes: ProbeStack, basis: GaussianBasis, lengths: Tensor, is_edge: Tensor
) -> Tensor:
    """As ``ChargE3Net.radial``: R(r) at (E,) lengths -> (E, columns), differentiable."""
    nodes = nodes_for(bins_for(TRAINING_STEP, basis.cutoff), basis)
    table = probes.radial.table(nodes, basis)
    return TableLookup.of(lengths, table.shape[0] // 2, basis.cutoff).masked(is_edge).read(table)
