"""DeepDFT's filters as tables: they depend on one number, and so are made once for given weights.

Cubic Hermite pieces as in nn/hermite.py, in float64 from the weights' own values, with as many
nodes as keep the error between them below a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neupol_cli.models.nn.hermite import MOST_BINS, TableLookup

# What a value may be wrong by, relative to its curve's largest one.
ERROR = 1e-7
FEWEST_BINS = 513

Filter = Callable[[Tensor], Tensor]  # (R,) Angstrom -> (R, channels)


def filter_table(function: Filter, cutoff: float, tolerance: float = ERROR) -> Tensor:
    """A table of a filter over [0, cutoff] whose error was measured.

    Args:
        function: the filter; float64 in and out, differentiable.
        cutoff: Angstrom.
        tolerance: largest error between nodes, relative to each curve's largest value.

    Returns:
        (2 bins, channels) float64: each bin's heights and slopes (per bin).
    """
    bins = FEWEST_BINS
    while True:
        table = _table(function, cutoff, bins)
        if bins > MOST_BINS or filter_error(table, function, cutoff) <= tolerance:
            return table
        bins = 2 * bins - 1


def _table(function: Filter, cutoff: float, bins: int) -> Tensor:
    """Heights, and slopes from differentiating twice: once by the nodes, once by the weights."""
    step = cutoff / (bins - 1)
    with torch.enable_grad():
        nodes = torch.linspace(0, cutoff, bins, dtype=torch.float64, requires_grad=True)
        heights = function(nodes)
        weights = torch.zeros_like(heights, requires_grad=True)
        (by_nodes,) = torch.autograd.grad(heights, nodes, weights, create_graph=True)
        (slopes,) = torch.autograd.grad(by_nodes.sum() * step, weights)
    return torch.stack((heights.detach(), slopes), 1).flatten(0, 1)


@torch.no_grad()
def filter_error(table: Tensor, function: Filter, cutoff: float) -> float:
    """The largest error of a table between its nodes, relative to each curve's largest value."""
    bins = table.shape[0] // 2
    nodes = torch.linspace(0, cutoff, bins, dtype=torch.float64)
    places = (nodes[:-1, None] + (nodes[1] - nodes[0]) * torch.tensor([0.25, 0.5, 0.75])).flatten()
    exact = function(places)
    wrong = TableLookup.of(places, bins, cutoff).read(table) - exact
    scale = exact.abs().amax(0).clamp(min=1e-30)
    return float((wrong.abs().amax(0) / scale).max())


class FilterTables:
    """The tables of some layers' filters, made anew when the weights behind them change."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, list[Tensor]] = (torch.empty(0), [])

    def get(self, weights: Tensor, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The tables for these weights.

        Args:
            weights: (N,) what the filters are made of; compared by value, since optimisers and
                averages change weights without a trace.
            make: the tables, if they are not there yet.
        """
        known, tables = self._known
        if not tables or not _same(known, weights):
            tables = make()
            self._known = (weights, tables)  # in one go: other threads may look
        return tables


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in place, type and every number."""
    alike = (one.device, one.dtype, one.shape) == (other.device, other.dtype, other.shape)
    return alike and torch.equal(one, other)
