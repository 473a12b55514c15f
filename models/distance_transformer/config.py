"""The distance transformer's settings."""

from __future__ import annotations

from dataclasses import dataclass

from neupol_cli.errors import UsageError
from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.settings import Bins, Depth, Distance, Heads, Resolution, Width


@dataclass(frozen=True)
class DistanceTransformerConfig(PropertyConfig):
    """Sizes of the distance transformer.

    Attributes:
        hidden: width of an atom's state.
        layers: attention blocks.
        heads: attention heads; divides ``hidden``.
        feed_forward: width between the two layers of a block's second half.
        bias_hidden: width of the MLP that turns an encoded distance into a bias a head.
        cutoff: Angstrom; None joins all pairs of a molecule (and refuses periodic cells).
        encoding: how a distance enters (models/distance.py).
        encoding_size, encoding_bins, encoding_range: its resolution; the range is in Angstrom and
            is the cutoff where there is one.
    """

    hidden: Width = 128
    layers: Depth = 6
    heads: Heads = 8
    feed_forward: Width = 512
    bias_hidden: Width = 64
    cutoff: Distance | None = None
    encoding: str = "learned"
    encoding_size: Resolution = 32
    encoding_bins: Bins = 64
    encoding_range: Distance = 12.0


def check(config: DistanceTransformerConfig) -> None:
    """Refuses what this network cannot be.

    Raises:
        UsageError: movable points, or heads that do not divide the width.
    """
    if config.polarization == "movable":
        raise UsageError(
            "distance-transformer has no vectors that could move a point, only off or frozen "
            "polarization; choose egnn, equivariant-transformer, equiformer or painn"
        )
    if config.heads < 1 or config.hidden % config.heads:
        raise UsageError(
            f"{config.heads} heads do not divide {config.hidden} features: --set heads="
        )
