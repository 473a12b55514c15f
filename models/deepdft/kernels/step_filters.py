"""The invariant network's filters from tables that are made anew in each step of training.

    f(r) = L(ssp(L(e(r)))) c(r),   f' = (W2 (sigmoid(L(e)) W1 e')) c + L(ssp(L(e))) c'

One evaluation of the filter's network a node instead of one an edge; the error is below float32's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.linear import Perceptron, product


@dataclass(frozen=True)
class FilterNodes:
    """The functions of a length at the N nodes of a table, with slopes a bin.

    Attributes:
        basis, basis_slope: (N, K).
        envelope, envelope_slope: (N, 1).
    """

    basis: Tensor
    basis_slope: Tensor
    envelope: Tensor
    envelope_slope: Tensor


@dataclass(frozen=True)
class TabledFilters:
    """Where edges lie in tables with these nodes."""

    lookup: TableLookup
    nodes: FilterNodes

    def __call__(self, network: Perceptron) -> Tensor:
        """(E, H) the filters of one message network, differentiable by its weights."""
        return self.lookup.read(step_table(network, self.nodes))


def step_table(network: Perceptron, nodes: FilterNodes) -> Tensor:
    """(2 N, H) the filter at N nodes: heights and slopes (per bin)."""
    within = network.first(nodes.basis)
    values = network.second(network.activation(within))
    rising = product(nodes.basis_slope, network.first.weight) * torch.sigmoid(within)
    slopes = product(rising, network.second.weight) * nodes.envelope
    slopes = slopes + values * nodes.envelope_slope
    return torch.stack((values * nodes.envelope, slopes), 1).flatten(0, 1)
