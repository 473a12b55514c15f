"""PaiNN's sizes."""

from __future__ import annotations

from dataclasses import dataclass

from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.settings import Bins, Depth, Distance, Resolution, Width


@dataclass(frozen=True)
class PaiNNConfig(PropertyConfig):
    """PaiNN's sizes; the defaults are the published QM9 network.

    Without ``outputs`` mu is the length of a dipole, r2 a spatial extent, homo and lumo are levels
    and all others sums over atoms.

    Attributes:
        hidden: width H of scalars and vectors.
        layers: message passing steps.
        cutoff: Angstrom.
        encoding: how a distance enters (models/distance.py); ``bessel`` as published.
        encoding_size, encoding_bins: its resolution over [0, cutoff].
    """

    hidden: Width = 128
    layers: Depth = 3
    cutoff: Distance = 5.0
    encoding: str = "bessel"
    encoding_size: Resolution = 20
    encoding_bins: Bins = 64
