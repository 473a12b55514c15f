"""Equiformer's radial functions: its own learned Gaussians, and the network behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.distance import ENCODINGS, RadialBasisConfig
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.linear import Linear, product

# The published code's value in the Gaussians' norm.
PI = 3.14159


class LearnedGaussians(nn.Module):
    """Gaussians whose centres and widths are learned, in units of the cutoff (as published).

    exp(-(t - mean_k)^2 / (2 s_k^2)) / (sqrt(2 pi) s_k),  t = weight r / c + bias, s = |std| + 1e-5
    """

    decays = False

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__()
        self.size, self.cutoff = basis.size, basis.high
        self.mean = nn.Parameter(torch.rand(basis.size))
        self.std = nn.Parameter(torch.empty(basis.size).uniform_(1 / basis.size, 1))
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, edges: Edges) -> Tensor:
        """(E, size)."""
        place = self.weight * (edges.lengths[:, None] / self.cutoff) + self.bias
        width = self.std.abs() + 1e-5
        height = 1 / (math.sqrt(2 * PI) * width)
        return height * torch.exp(-0.5 * ((place - self.mean) / width).square().clamp(max=160.0))


class LearnedBessel(nn.Module):
    """Bessel functions of learned frequency inside an envelope, for r2, zpve, U0, U, H and G.

    env(x) sqrt(2 / c^3) sin(f_k x) / x,  x = r / c,  f_k from k pi;
    env = 1 - 21 x^5 + 35 x^6 - 15 x^7 within the cutoff
    """

    decays = False

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__()
        self.size, self.cutoff = basis.size, basis.high
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, basis.size + 1.0))

    def forward(self, edges: Edges) -> Tensor:
        """(E, size)."""
        x = edges.lengths[:, None] / self.cutoff
        envelope = (1 - x**5 * (21 - x * (35 - 15 * x))) * (x < 1)
        waves = self.frequencies * torch.sinc(x * self.frequencies / math.pi)
        return math.sqrt(2 / self.cutoff**3) * envelope * waves


def radial_basis(name: str, basis: RadialBasisConfig) -> nn.Module:
    """``learned-gaussian``, ``learned-bessel``, or any encoding of models/distance.py.

    Raises:
        UsageError: there is no such encoding; the message lists them.
    """
    kinds = {"learned-gaussian": LearnedGaussians, "learned-bessel": LearnedBessel, **ENCODINGS}
    if name not in kinds:
        raise UsageError(f"no distance encoding is called {name!r}; there are {', '.join(kinds)}")
    return kinds[name](basis)


class RadialNetwork(nn.Module):
    """(silu(LN(L(.)))) twice: (H, basis) -> (H, hidden), then a linear map to path weights.

    The last map is left to whoever reads it (``last`` and ``offset``): most do not want its result
    for all edges at once.
    """

    def __init__(self, basis: int, hidden: tuple[int, ...], weights: int) -> None:
        super().__init__()
        sizes = (basis, *hidden)
        layers: list[nn.Module] = []
        for ins, outs in zip(sizes, hidden, strict=False):
            linear = Linear(ins, outs)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.LayerNorm(outs), nn.SiLU()]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Parameter(Linear(hidden[-1], weights, bias=False).weight.detach())
        reach = hidden[-1] ** -0.5
        self.offset = nn.Parameter(torch.empty(weights).uniform_(-reach, reach))

    def forward(self, basis: Tensor) -> Tensor:
        """(H, basis) -> (H, weights)."""
        return product(self.hidden(basis), self.last, self.offset)
