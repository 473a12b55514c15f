"""Curves as tables: cubic Hermite pieces between equally spaced nodes (Gao et al. 2022, 3.1).

    y(x) = c1(t) h_k + c2(t) h_{k+1} + c3(t) g_k + c4(t) g_{k+1},    t = x / step - k in [0, 1]
    c2 = t^2 (3 - 2 t)    c1 = 1 - c2    c3 = t (1 - t)^2    c4 = t^2 (t - 1)

h are heights at the nodes and g slopes there, in units of a bin; y and its first derivative are
continuous. A table is (2 bins, C): for each node its heights, then its slopes. The paper's simpler
variants have no slopes: linear, c1 = 1 - t and c2 = t, and nearest, the height of the nearer node.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.table_rows import weighted_rows

Start = Literal["smooth", "random"]
Interpolation = Literal["hermite", "linear", "nearest"]


class TableLookup:
    """Where some values lie in tables with ``bins`` nodes.

    Attributes:
        left: (E,) the node to the left.
        weights: (E, 4) c1, c3, c2, c4: of h_k, g_k, h_{k+1}, g_{k+1}, in a table's order.
    """

    def __init__(self, left: Tensor, weights: Tensor, bins: int) -> None:
        self.left, self.weights, self.bins = left, weights, bins

    @classmethod
    def of(
        cls,
        x: Tensor,
        bins: int,
        high: float,
        low: float = 0.0,
        interpolation: Interpolation = "hermite",
    ) -> TableLookup:
        """The places of (E,) values; those outside [low, high] are held at its ends."""
        place = ((x - low) * ((bins - 1) / (high - low))).clamp(0, bins - 1)
        left = place.detach().floor().clamp(max=bins - 2)
        return cls(left.long(), WEIGHTS[interpolation](place - left), bins)

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


def _hermite(t: Tensor) -> Tensor:
    """(E,) t -> (E, 4) c1, c3, c2, c4."""
    c2 = t * t * (3 - 2 * t)
    c4 = t * t * (t - 1)
    return torch.stack((1 - c2, c4 - t * (t - 1), c2, c4), 1)


def _linear(t: Tensor) -> Tensor:
    """The same where slopes are not read."""
    return torch.stack((1 - t, torch.zeros_like(t), t, torch.zeros_like(t)), 1)


def _nearest(t: Tensor) -> Tensor:
    """The same; its derivative by t is zero, and is there for whoever asks."""
    return _linear((t >= 0.5) + 0 * t)


WEIGHTS = {"hermite": _hermite, "linear": _linear, "nearest": _nearest}


class HermiteTable(nn.Module):
    """x in [low, high] as ``size`` learned curves; outside they are constant.

    They start as random smooth curves, sums of four cosines of falling amplitude, of mean square
    about one, with the slopes that belong to them; or ``random``, as published, every number of the
    table from N(0, 1), so that the first forces are as rough as it is.

    Attributes:
        heights: (bins, size).
        slopes: (bins, size), in units of a bin; None where the interpolation reads none.
        interpolation: ``hermite``, ``linear`` or ``nearest``.
        quantity: what x is, for whoever studies the tables of a network.
    """

    decays = False
    quantity = "distance"

    def __init__(
        self,
        size: int,
        bins: int,
        low: float,
        high: float,
        start: Start = "smooth",
        interpolation: Interpolation = "hermite",
    ) -> None:
        super().__init__()
        if bins < 2 or not high > low:
            raise UsageError(
                f"a learned table needs two bins and a range, got {bins} over {low}..{high}"
            )
        self.size = size
        self.low, self.high, self.interpolation = low, high, interpolation
        self.step = (high - low) / (bins - 1)
        heights, slopes = STARTS[start](bins, size)
        self.heights = nn.Parameter(heights)
        self.slopes = nn.Parameter(slopes) if interpolation == "hermite" else None

    def table(self) -> Tensor:
        """(2 bins, size), as :class:`TableLookup` reads it."""
        slopes = torch.zeros_like(self.heights) if self.slopes is None else self.slopes
        return torch.stack((self.heights, slopes), 1).flatten(0, 1)

    def lookup(self, x: Tensor) -> TableLookup:
        """Where (E,) values lie in it."""
        return TableLookup.of(x, len(self.heights), self.high, self.low, self.interpolation)

    def forward(self, x: Tensor) -> Tensor:
        """(E,) values -> (E, size)."""
        return self.lookup(x).read(self.table())

    def smoothness(self) -> Tensor:
        """L_smooth = sum_k |h_{k+1} - h_k| / sum_k |h_k|, k = 1..bins-1 (Gao et al. 2022, 3.2)."""
        steps = torch.linalg.vector_norm(self.heights.diff(dim=0), dim=1)
        return steps.sum() / torch.linalg.vector_norm(self.heights[:-1], dim=1).sum()


def _smooth(bins: int, size: int) -> tuple[Tensor, Tensor]:
    """(bins, size) heights and slopes of random smooth curves."""
    waves = torch.arange(4.0)
    phase = torch.arange(bins)[:, None] * (math.pi * waves / (bins - 1))  # (bins, 4)
    mix = torch.randn(4, size) / (1 + waves)[:, None] * math.sqrt(1.4)
    slopes = -(math.pi * waves / (bins - 1)) * torch.sin(phase)
    return torch.cos(phase) @ mix, slopes @ mix


def _random(bins: int, size: int) -> tuple[Tensor, Tensor]:
    """The same, every number for itself."""
    return torch.randn(bins, size), torch.randn(bins, size)


STARTS = {"smooth": _smooth, "random": _random}
