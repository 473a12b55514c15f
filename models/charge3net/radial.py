"""R(r), ChargE3Net's radial function: as a network, and as a table of cubic Hermite pieces.

R depends on one number. Once its weights are known, heights and slopes at some hundred distances
give it back to a known error for four multiply-adds a value. A step of training may do the same:
the network is evaluated, and differentiated, at the nodes of a table instead of at every edge.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.nn.activation import SILU
from neupol_cli.models.nn.hermite import HermiteTable
from neupol_cli.models.nn.linear import product
from neupol_cli.models.nn.measured_table import measured_table

# Columns that compiled loops read at once.
LANES = 16


class GaussianBasis(nn.Module):
    """The published radial basis: Gaussians over [0, cutoff], shifted and scaled.

    e_k(r) = (exp(-((r - c_k) / D)^2) / 1.12 - mean_k) / std_k, c_k = linspace(0, cutoff, K),
    D = c_2 - c_1; mean and standard deviation over 4,000 points of (0, cutoff]. No envelope.
    """

    mean: Tensor
    inv_std: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff, self.size = cutoff, size
        samples = torch.linspace(0, cutoff, 4001, dtype=torch.float64)[1:]
        std, mean = torch.std_mean(self._bells(samples), 0)
        self.register_buffer("mean", mean.to(torch.get_default_dtype()))
        self.register_buffer("inv_std", std.reciprocal().to(torch.get_default_dtype()))

    def _offsets(self, lengths: Tensor) -> Tensor:
        centres = torch.arange(self.size, dtype=lengths.dtype, device=lengths.device)
        return lengths[:, None] * ((self.size - 1) / self.cutoff) - centres  # (E, K), in steps

    def _bells(self, lengths: Tensor) -> Tensor:
        return torch.exp(-self._offsets(lengths).square()) / 1.12

    def forward(self, lengths: Tensor) -> Tensor:
        """(E,) Angstrom -> (E, K)."""
        return (self._bells(lengths) - self.mean) * self.inv_std

    def slope(self, lengths: Tensor) -> Tensor:
        """The derivative by the length, (E, K), per Angstrom."""
        steep = -2 * (self.size - 1) / self.cutoff * self._offsets(lengths)
        return steep * self._bells(lengths) * self.inv_std


class RadialNetwork(nn.Module):
    """R = 1.679 silu(e W_0 / sqrt K) W_1 / sqrt(hidden): all weights N(0, 1), no biases."""

    def __init__(self, basis: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(basis, hidden))
        self.second = nn.Parameter(torch.randn(hidden, channels))

    def forward(self, lengths: Tensor, basis: Tensor) -> Tensor:
        """(E,) lengths and (E, K) their basis -> (E, channels)."""
        return self._last(functional.silu(product(basis, self._first())))

    def table(self, nodes: Tensor, basis: GaussianBasis) -> Tensor:
        """(bins,) equally spaced distances -> (2 bins, channels) each its height and slope."""
        within = product(basis(nodes), self._first())
        slope = product(basis.slope(nodes) * (nodes[1] - nodes[0]), self._first())
        gate = within.sigmoid()
        steep = slope * (gate + within * gate * (1 - gate))
        both = torch.stack((within * gate, steep), 1).flatten(0, 1)
        return self._last(both)

    def _first(self) -> Tensor:
        return self.first.t() * self.first.shape[0] ** -0.5

    def _last(self, hidden: Tensor) -> Tensor:
        return product(hidden * (SILU * self.second.shape[0] ** -0.5), self.second.t())


class LearnedRadial(nn.Module):
    """R as a learned table (Gao et al. 2022, 3.1): no network, 2 channels numbers a bin.

    It starts as random smooth curves of mean square one, with the slopes that belong to them.
    """

    def __init__(self, cutoff: float, bins: int, channels: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.curves = HermiteTable(channels, bins, 0.0, cutoff)

    def forward(self, lengths: Tensor, basis: Tensor) -> Tensor:
        """(E,) lengths -> (E, channels); the basis is not read."""
        return self.curves(lengths)

    def table(self, nodes: Tensor | None = None, basis: GaussianBasis | None = None) -> Tensor:
        """(2 bins, channels) at its own bins."""
        return self.curves.table()


Radial = RadialNetwork | LearnedRadial


class LayersRadial:
    """R(r) of several layers, side by side.

    Args:
        layers: of each.
        columns: which layer's and which of its channels come one behind the other.
    """

    def __init__(self, layers: list[Radial], columns: list[tuple[int, slice]]) -> None:
        self.layers, self.columns = layers, columns

    def __call__(self, lengths: Tensor, basis: Tensor) -> Tensor:
        """(E,) lengths and (E, K) their basis -> (E, columns), evaluated for each."""
        return self._joined([layer(lengths, basis) for layer in self.layers])

    def table(self, nodes: Tensor, basis: GaussianBasis) -> Tensor:
        """(bins,) equally spaced distances -> (2 bins, columns) each its heights and slopes."""
        return self._joined([layer.table(nodes, basis) for layer in self.layers])

    def parameters(self) -> Iterator[Tensor]:
        """What they are made of, besides the basis."""
        return (weight for layer in self.layers for weight in layer.parameters())

    def double(self) -> LayersRadial:
        """A copy in float64."""
        return LayersRadial([copy.deepcopy(layer).double() for layer in self.layers], self.columns)

    def _joined(self, values: list[Tensor]) -> Tensor:
        return torch.cat([values[layer][:, own] for layer, own in self.columns], 1)


@dataclass(frozen=True)
class RadialTable:
    """R(r) of all probe layers, for predictions.

    Attributes:
        rows: (2 bins, columns) heights and slopes, by l.
        channels: how many columns each l has.
    """

    rows: Tensor
    channels: tuple[int, ...]

    @cached_property
    def padded(self) -> Tensor:
        """(2 bins, more columns): those of an l begin at a multiple of LANES; zero between."""
        parts = self.rows.split(self.channels, 1)
        return torch.cat([functional.pad(part, (0, -part.shape[1] % LANES)) for part in parts], 1)


def padded_starts(channels: Sequence[int]) -> list[int]:
    """Where in ``RadialTable.padded`` the columns of each l begin."""
    sizes = [-(-n // LANES) * LANES for n in channels]
    return [sum(sizes[:n]) for n in range(len(sizes))]


def checked_table(radial: LayersRadial, basis: GaussianBasis, tolerance: float) -> Tensor:
    """A table of a radial function, made in float64, whose error was measured.

    A table that was learned keeps its own nodes: it is the function itself.

    Args:
        radial: whatever the type of its parameters, the table is made from their values in float64.
        basis: the radial basis; its cutoff is the table's end.
        tolerance: largest error between nodes, relative to each curve's largest value.

    Returns:
        (2 bins, channels) float64: each bin's heights and slopes (per bin).
    """
    exact, fine = radial.double(), copy.deepcopy(basis).double()

    def make(bins: int) -> Tensor:
        return exact.table(nodes_for(bins, fine), fine)

    def values(lengths: Tensor) -> Tensor:
        return exact(lengths, fine(lengths))

    with torch.no_grad():
        return measured_table(make, values, basis.cutoff, tolerance)


def nodes_for(bins: int, basis: GaussianBasis) -> Tensor:
    """(bins,) equally spaced distances over [0, cutoff], as exact as the basis."""
    return torch.linspace(0, basis.cutoff, bins, dtype=basis.mean.dtype, device=basis.mean.device)


def bins_for(step: float, cutoff: float) -> int:
    """How many nodes a table with nodes at most ``step`` Angstrom apart has."""
    return math.ceil(cutoff / step) + 1
