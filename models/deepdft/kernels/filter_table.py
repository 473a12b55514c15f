"""DeepDFT's filters as tables: they depend on one number, and so are made once for given weights.

Cubic Hermite pieces as in nn/hermite.py, in float64 from the weights' own values, with as many
nodes as keep the error between them below a bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neupol_cli.models.nn.measured_table import Function, measured_table

# What a value may be wrong by, relative to its curve's largest one.
ERROR = 1e-7


def filter_table(function: Function, cutoff: float, tolerance: float = ERROR) -> Tensor:
    """A table of a filter over [0, cutoff] whose error was measured.

    Args:
        function: the filter; float64 in and out, differentiable.
        cutoff: Angstrom.
        tolerance: largest error between nodes, relative to each curve's largest value.

    Returns:
        (2 bins, channels) float64: each bin's heights and slopes (per bin).
    """
    return measured_table(lambda bins: _table(function, cutoff, bins), function, cutoff, tolerance)


def _table(function: Function, cutoff: float, bins: int) -> Tensor:
    """Heights, and slopes from differentiating twice: once by the nodes, once by the weights."""
    step = cutoff / (bins - 1)
    with torch.enable_grad():
        nodes = torch.linspace(0, cutoff, bins, dtype=torch.float64, requires_grad=True)
        heights = function(nodes)
        weights = torch.zeros_like(heights, requires_grad=True)
        (by_nodes,) = torch.autograd.grad(heights, nodes, weights, create_graph=True)
        (slopes,) = torch.autograd.grad(by_nodes.sum() * step, weights)
    return torch.stack((heights.detach(), slopes), 1).flatten(0, 1)
