"""Functions of a distance as tables of cubic Hermite pieces (hermite.py) whose error is measured.

Between nodes h apart a piece is wrong by at most h^4 / 384 |f''''|, in the middle of its interval.
So a coarse table, measured there, tells how many nodes are enough; and as f'''' is much the same in
neighbouring intervals of a fine one, that is measured in as many places as the coarse one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# The first attempt; and more nodes than the last give back rounding errors, not the function.
FEWEST_BINS, MOST_BINS = 129, 16_385
# More nodes than the fourth root tells, for |f''''| between the coarse ones.
SPARE = 1.05

Function = Callable[[Tensor], Tensor]  # (R,) Angstrom -> (R, channels)


def measured_table(
    make: Callable[[int], Tensor], function: Function, cutoff: float, tolerance: float
) -> Tensor:
    """A table of a function over [0, cutoff] with as many nodes as it takes.

    Args:
        make: a number of bins -> (2 bins, channels) float64, each bin's heights and slopes (per
            bin).
        function: what the table is of; float64 in and out.
        cutoff: Angstrom.
        tolerance: largest error between nodes, relative to each curve's largest value.

    Returns:
        (2 bins, channels) float64.
    """
    bins = FEWEST_BINS
    while True:
        table = make(bins)
        error = table_error(table, function, cutoff)
        # Of numbers that are not finite no table is good enough.
        if error <= tolerance or bins >= MOST_BINS or not math.isfinite(error):
            return table
        enough = SPARE * (bins - 1) * (error / tolerance) ** 0.25
        bins = min(math.ceil(enough) + 1, MOST_BINS)


@torch.no_grad()
def table_error(table: Tensor, function: Function, cutoff: float) -> float:
    """The largest error of a table between its nodes, relative to each curve's largest value."""
    heights, slopes = table.view(-1, 2, table.shape[1]).unbind(1)
    every = max(1, heights.shape[0] // FEWEST_BINS)
    middles = torch.linspace(0, cutoff, 2 * heights.shape[0] - 1, dtype=table.dtype)[1::2][::every]
    exact = function(middles.to(table.device))
    left, right = slice(None, -1, every), slice(1, None, every)
    twice = torch.add(heights[left] + heights[right], slopes[left] - slopes[right], alpha=0.25)
    wrong = torch.sub(exact, twice, alpha=0.5).abs().amax(0)
    return float((wrong / exact.abs().amax(0).clamp(min=1e-30)).max())
