"""DimeNet's functions of a distance, under one envelope."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neupol_cli.models.dimenet.config import DimeNetConfig
from neupol_cli.models.dimenet.spherical_basis import SphericalBessel
from neupol_cli.models.distance import RadialBasisConfig, encoding
from neupol_cli.models.nn.graph import Edges


def envelope(x: Tensor, exponent: int) -> Tensor:
    """env(x) = 1/x - (p+1)(p+2)/2 x^(p-1) + p(p+2) x^p - p(p+1)/2 x^(p+1), p = exponent + 1.

    (E,) -> (E,); zero, with two derivatives, at x = 1 and beyond.
    """
    p = exponent + 1
    inner = p * (p + 2) - p * (p + 1) / 2 * x
    inner = x ** (p - 1) * (x * inner - (p + 1) * (p + 2) / 2)
    return (1 / x + inner) * (x < 1)


class RadialBasis(nn.Module):
    """DimeNet++'s own functions of a distance: rbf_n = env(x) sin(f_n x), f_n learned from n pi."""

    decays = False

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.size = config.radial
        self.cutoff = config.cutoff
        self.frequencies = nn.Parameter(math.pi * torch.arange(1.0, config.radial + 1))
        self.spherical = SphericalBessel(config.spherical, config.radial)

    def forward(self, edges: Edges, inside: Tensor) -> tuple[Tensor, Tensor]:
        """(E, N) rbf and (E, L N) radial half of sbf; ``inside`` is (E, 1) env(x)."""
        x = edges.lengths / self.cutoff
        return inside * torch.sin(self.frequencies * x[:, None]), inside * self.spherical(x)


class EncodedBasis(nn.Module):
    """Another encoding under the same envelope; the radial half of sbf is the same for all l."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        basis = RadialBasisConfig.of(config, config.cutoff)
        self.spherical = config.spherical
        self.along = encoding(config.encoding, basis)
        self.across = encoding(config.encoding, basis)
        self.size = int(self.along.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges, inside: Tensor) -> tuple[Tensor, Tensor]:
        across = inside * self.across(edges)
        return inside * self.along(edges), across.repeat(1, self.spherical)
