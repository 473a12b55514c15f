"""A distance (or an angle) as a vector: the parts that are handed to whatever embeds one.

Cutoff envelopes stay outside. Every encoding answers ``encoding(edges) -> (E, size)`` and is
differentiable twice, at zero distance too. Those without weights of their own compute it once for
the same edges, however many layers ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.hermite import HermiteTable, Interpolation, Start
from neupol_cli.models.nn.linear import Linear


class EncodingConfig(Protocol):
    """What a network's configuration says of its encoding."""

    @property
    def encoding_size(self) -> int: ...
    @property
    def encoding_bins(self) -> int: ...
    @property
    def table_start(self) -> Start: ...
    @property
    def interpolation(self) -> Interpolation: ...


@dataclass(frozen=True)
class RadialBasisConfig:
    """How finely distances are resolved: ``size`` numbers over [0, ``high``] Angstrom.

    ``bins`` is the number of bin centres of a learned table, which starts and is read as ``start``
    and ``interpolation`` say (nn/hermite.py); the others read none of the three.
    """

    size: int
    high: float
    bins: int = 64
    start: Start = "smooth"
    interpolation: Interpolation = "hermite"

    @classmethod
    def of(cls, config: EncodingConfig, high: float) -> RadialBasisConfig:
        """A network's, over [0, ``high``]."""
        resolution = config.encoding_size, high, config.encoding_bins
        return cls(*resolution, config.table_start, config.interpolation)


class Squared(nn.Module):
    """r^2 itself, as in EGNN (Satorras et al. 2021, eq. 3)."""

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__()
        self.size = 1

    def forward(self, edges: Edges) -> Tensor:
        return edges.squared[:, None]


class Fixed(nn.Module):
    """An encoding without weights: layers that have it in common share its values."""

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__()
        self.size = basis.size
        self.key = (type(self).__name__, basis)

    def forward(self, edges: Edges) -> Tensor:
        return edges.once(self.key, lambda: self.encode(edges.lengths[:, None]))

    def encode(self, lengths: Tensor) -> Tensor:
        """(E, 1) distances -> (E, size)."""
        raise NotImplementedError


# exp(-80) is 2e-35; below it float32 turns to denormal numbers, which are slow and add nothing.
FAINT = -80.0


class Gaussian(Fixed):
    """``size`` Gaussians at equal steps over [0, high], as wide as the step."""

    centres: Tensor

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__(basis)
        self.step = basis.high / max(basis.size - 1, 1)
        self.register_buffer("centres", torch.linspace(0, basis.high, basis.size))

    def encode(self, lengths: Tensor) -> Tensor:
        exponent = -0.5 * ((lengths - self.centres) / self.step).square()
        return torch.exp(exponent.clamp(min=FAINT))


def sinc(x: Tensor) -> Tensor:
    """sin(pi x) / (pi x), differentiable to any order at zero, too; torch.sinc is once.

    Points that coincide are no accident: movable points start where their atoms are.
    """
    y = math.pi * x
    near = y.abs() < 0.05  # where four terms of the series are exact in float64
    square = y.square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    apart = torch.where(near, 1.0, y)
    return torch.where(near, series, apart.sin() / apart)


class Bessel(Fixed):
    """sqrt(2/c) sin(n pi r/c)/r, n = 1..size (Gasteiger et al. 2020, eq. 7), no envelope."""

    orders: Tensor

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__(basis)
        self.high = basis.high
        self.register_buffer("orders", torch.arange(1, basis.size + 1.0))

    def encode(self, lengths: Tensor) -> Tensor:
        height = math.sqrt(2 / self.high) * math.pi / self.high * self.orders
        return height * sinc(lengths * (self.orders / self.high))


class ExpNormal(Fixed):
    """exp(-beta_k (exp(-alpha r) - mu_k)^2), alpha = 5/high (Unke and Meuwly 2019, eq. 7).

    mu_k go evenly from exp(-high) to 1; beta = (2 / size (1 - exp(-high)))^-2.
    """

    means: Tensor
    betas: Tensor

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__(basis)
        self.alpha = 5 / basis.high
        last = math.exp(-basis.high)
        beta = (2 / basis.size * (1 - last)) ** -2
        self.register_buffer("means", torch.linspace(last, 1, basis.size))
        self.register_buffer("betas", torch.full((basis.size,), beta))

    def encode(self, lengths: Tensor) -> Tensor:
        closeness = torch.exp(-self.alpha * lengths)
        return torch.exp((-self.betas * (closeness - self.means).square()).clamp(min=FAINT))


class Perceptron(nn.Module):
    """Two layers with a ReLU between them: the baseline ``+MLP`` of Gao et al. 2022, Table 2."""

    def __init__(self, basis: RadialBasisConfig) -> None:
        super().__init__()
        self.size = basis.size
        self.layers = nn.Sequential(
            Linear(1, basis.size), nn.ReLU(), Linear(basis.size, basis.size)
        )

    def forward(self, edges: Edges) -> Tensor:
        return self.layers(edges.lengths[:, None])


class Learned(HermiteTable):
    """The learned encoding of a distance over [0, high]."""

    def __init__(self, basis: RadialBasisConfig) -> None:
        form = basis.start, basis.interpolation
        super().__init__(basis.size, basis.bins, 0.0, basis.high, *form)

    def forward(self, edges: Edges) -> Tensor:  # type: ignore[override]
        return super().forward(edges.lengths)


ENCODINGS: dict[str, Callable[[RadialBasisConfig], nn.Module]] = {
    "squared": Squared,
    "gaussian": Gaussian,
    "bessel": Bessel,
    "expnormal": ExpNormal,
    "mlp": Perceptron,
    "learned": Learned,
}


def encoding(name: str, basis: RadialBasisConfig) -> nn.Module:
    """The encoding of that name; its ``size`` says how many numbers it makes of a distance.

    Raises:
        UsageError: there is no such encoding; the message lists them.
    """
    if name not in ENCODINGS:
        raise UsageError(
            f"no distance encoding is called {name!r}; there are {', '.join(ENCODINGS)}"
        )
    return ENCODINGS[name](basis)


def cosine_envelope(lengths: Tensor, cutoff: float) -> Tensor:
    """(cos(pi r / cutoff) + 1) / 2 inside the cutoff and zero beyond it: (E,) -> (E,)."""
    inside = (lengths < cutoff).to(lengths.dtype)
    return 0.5 * (torch.cos(lengths * (math.pi / cutoff)) + 1) * inside


def smoothness(model: nn.Module) -> Tensor | None:
    """L_smooth averaged over a model's learned tables, or None if it has none."""
    tables = [module for module in model.modules() if isinstance(module, HermiteTable)]
    return torch.stack([table.smoothness() for table in tables]).mean() if tables else None
