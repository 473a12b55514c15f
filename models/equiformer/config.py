"""Equiformer's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neupol_cli.errors import UsageError
from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.equiformer.so3 import EPSILON, multiplicities
from neupol_cli.models.settings import (
    Bins,
    Count,
    Depth,
    Distance,
    Fraction,
    Heads,
    Resolution,
    Scale,
    Width,
)

SOFT_EPSILON = 0.01  # features are of the order of one


@dataclass(frozen=True)
class EquiformerConfig(PropertyConfig):
    """Equiformer's sizes; the defaults are the published QM9 network.

    With ``softening`` the layer normalisation of l > 0 is smooth where these vanish.

    Attributes:
        irreps: of the state; even, l ascending from 0.
        layers: attention blocks.
        cutoff: Angstrom.
        heads, head_irreps: attention heads, and the values of one.
        mlp_irreps: the hidden layer of a block's feed-forward network.
        feature: scalars that the readout sees.
        encoding: how a distance enters: ``learned-gaussian``, ``learned-bessel`` (published for
            energies, r2, zpve) or any of models/distance.py.
        encoding_size, encoding_bins: its resolution.
        radial: hidden widths of the networks behind it.
        alpha_drop: dropout of attention weights, in training only.
        average_degree, average_nodes: neighbours of an atom and atoms of a molecule in QM9.
    """

    irreps: str = "128x0e+64x1e+32x2e"
    layers: Depth = 6
    cutoff: Distance = 5.0
    heads: Heads = 4
    head_irreps: str = "32x0e+16x1e+8x2e"
    mlp_irreps: str = "384x0e+192x1e+96x2e"
    feature: Width = 512
    encoding: str = "learned-gaussian"
    encoding_size: Resolution = 128
    encoding_bins: Bins = 64
    radial: Annotated[tuple[Width, ...], Count(1, 8)] = (64, 64)
    alpha_drop: Fraction = 0.2
    average_degree: Scale = 15.57930850982666
    average_nodes: Scale = 18.03065905448718

    @property
    def epsilon(self) -> float:
        """Of the layer normalisation of l > 0."""
        return SOFT_EPSILON if self.softening else EPSILON


def check(config: EquiformerConfig) -> None:
    """Refuses sizes that make no network.

    Raises:
        UsageError: saying which.
    """
    degrees = len(multiplicities(config.irreps))
    if degrees < 2:
        raise UsageError(f"irreps {config.irreps!r} have no vectors; add some, as in 16x0e+8x1e")
    others = {"head_irreps": config.head_irreps, "mlp_irreps": config.mlp_irreps}
    for name, text in others.items():
        if len(multiplicities(text)) != degrees:
            raise UsageError(f"{name} {text!r} must go to the same l as irreps {config.irreps!r}")
    if config.layers < 1 or config.heads < 1:
        raise UsageError(
            f"got {config.layers} layers of {config.heads} heads; both must be positive"
        )
