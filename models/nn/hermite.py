"""Curves as tables: cubic Hermite pieces between equally spaced nodes (Gao et al. 2022, 3.1).

    y(x) = c1(t) h_k + c2(t) h_{k+1} + c3(t) g_k + c4(t) g_{k+1},    t = x / step - k in [0, 1]
    c2 = t^2 (3 - 2 t)    c1 = 1 - c2    c3 = t (1 - t)^2    c4 = t^2 (t - 1)

h are heights at the nodes and g slopes there, in units of a bin; y and its first derivative are
continuous. A table is (2 bins, C): for each node its heights, then its slopes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.table_rows import weighted_rows

# Of a table that is made from a function: more nodes give back rounding errors, not the function.
MOST_BINS = 16_385


class TableLookup:
    """Where some values lie in tables with ``bins`` nodes.

    Attributes:
        left: (E,) the node to the left.
        weights: (E, 4) c1, c3, c2, c4: of h_k, g_k, h_{k+1}, g_{k+1}, in a table's order.
    """

    def __init__(self, left: Tensor, weights: Tensor, bins: int) -> None:
        self.left, self.weights, self.bins = left, weights, bins

    @classmethod
    def of(cls, x: Tensor, bins: int, high: float, low: float = 0.0) -> TableLookup:
        """The places of (E,) values; those outside [low, high] are held at its ends."""
        place = ((x - low) * ((bins - 1) / (high - low))).clamp(0, bins - 1)
        left = place.detach().floor().clamp(max=bins - 2)
        t = place - left
        c2 = t * t * (3 - 2 * t)
        c4 = t * t * (t - 1)
        return cls(left.long(), torch.stack((1 - c2, c4 - t * (t - 1), c2, c4), 1), bins)

    def masked(self, inside: Tensor) -> TableLookup:
        """The same with weight zero where ``inside`` (E,) is false."""
        weights = self.weights * inside[:, None].to(self.weights.dtype)
        return TableLookup(self.left, weights, self.bins)

    def read(self, table: Tensor) -> Tensor:
        """(2 bins, C) -> (E, C): y at every value."""
        if compiler.enabled():
            return weighted_rows(table, self.left, self.weights, self.bins)
        return self.read_plainly(table)

    def read_plainly(self, table: Tensor) -> Tensor:
        """The sum of four terms as it stands above."""
        rows = 2 * self.left[:, None] + torch.arange(4, device=self.left.device)
        return (self.weights[..., None] * table[rows]).sum(1)


class HermiteTable(nn.Module):
    """x in [low, high] as ``size`` learned curves; outside they are constant.

    The paper does not say how a table starts. Ours starts as random smooth curves, sums of four
    cosines of falling amplitude, of mean square about one, with the slopes that belong to them: a
    table of independent numbers would make the first forces as rough as it is.

    Attributes:
        heights: (bins, size).
        slopes: (bins, size), in units of a bin.
        quantity: what x is, for whoever studies the tables of a network.
    """

    decays = False
    quantity = "distance"

    def __init__(self, size: int, bins: int, low: float, high: float) -> None:
        super().__init__()
        if bins < 2 or not high > low:
            raise UsageError(
                f"a learned table needs two bins and a range, got {bins} over {low}..{high}"
            )
        self.size = size
        self.low, self.high = low, high
        self.step = (high - low) / (bins - 1)
        waves = torch.arange(4.0)
        phase = torch.arange(bins)[:, None] * (math.pi * waves / (bins - 1))  # (bins, 4)
        mix = torch.randn(4, size) / (1 + waves)[:, None] * math.sqrt(1.4)
        slopes = -(math.pi * waves / (bins - 1)) * torch.sin(phase)
        self.heights = nn.Parameter(torch.cos(phase) @ mix)
        self.slopes = nn.Parameter(slopes @ mix)

    def table(self) -> Tensor:
        """(2 bins, size), as :class:`TableLookup` reads it."""
        return torch.stack((self.heights, self.slopes), 1).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(E,) values -> (E, size)."""
        return TableLookup.of(x, len(self.heights), self.high, self.low).read(self.table())

    def smoothness(self) -> Tensor:
        """L_smooth = sum_k |h_{k+1} - h_k| / sum_k |h_k|, k = 1..bins-1 (Gao et al. 2022, 3.2)."""
        steps = torch.linalg.vector_norm(self.heights.diff(dim=0), dim=1)
        return steps.sum() / torch.linalg.vector_norm(self.heights[:-1], dim=1).sum()
