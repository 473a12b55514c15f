"""The angle at j between two edges k -> j -> i as a vector: the angular half of DimeNet's basis."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from neupol_cli.models.dimenet.config import DimeNetConfig
from neupol_cli.models.dimenet.kernels.choice import legendre_polynomials
from neupol_cli.models.dimenet.triplets import Angles
from neupol_cli.models.nn.hermite import HermiteTable
from neupol_cli.models.nn.linear import Linear


class LegendreAngles(nn.Module):
    """F_l = sqrt((2l+1) / 4 pi) P_l(cos angle), l = 0 .. size - 1; no parameters."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.size = config.spherical

    def forward(self, given: Angles) -> Tensor:
        """(...) angles -> (..., size)."""
        return legendre_polynomials(given.cosines, self.size)


class PerceptronAngles(nn.Module):
    """Two layers with a ReLU between them: the baseline ``+MLP`` of Gao et al. 2022, Table 2."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        size = config.spherical
        self.layers = nn.Sequential(Linear(1, size), nn.ReLU(), Linear(size, size))

    def forward(self, given: Angles) -> Tensor:
        """(...) angles -> (..., size)."""
        return self.layers(given.angles[..., None])


class LearnedAngles(HermiteTable):
    """A learned table over [0, pi] (Gao et al. 2022, section 3.1)."""

    quantity = "angle"

    def __init__(self, config: DimeNetConfig) -> None:
        form = config.table_start, config.interpolation
        super().__init__(config.spherical, config.encoding_bins, 0.0, math.pi, *form)

    def forward(self, given: Angles) -> Tensor:  # type: ignore[override]
        """(...) angles -> (..., size)."""
        angles = given.angles
        return super().forward(angles.flatten()).view(*angles.shape, self.size)


LEARNED: dict[str, Callable[[DimeNetConfig], nn.Module]] = {
    "mlp": PerceptronAngles,
    "learned": LearnedAngles,
}


def angular(config: DimeNetConfig) -> nn.Module:
    """What goes with its distance encoding; Legendre polynomials with most."""
    return LEARNED.get(config.encoding, LegendreAngles)(config)
