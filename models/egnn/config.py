"""Sizes of EGNN, for molecules and for charged particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.polarization_modes import polarization_mode
from neupol_cli.models.settings import Bins, Depth, Distance, Range, Resolution, Width


@dataclass(frozen=True)
class EGNNConfig(PropertyConfig):
    """EGNN's sizes; the defaults are the published QM9 network.

    Attributes:
        hidden: width H of every feature.
        layers: message passing steps.
        cutoff: Angstrom; None joins all pairs, as published.
        encoding: how a distance enters a message (models/distance.py).
        encoding_size, encoding_bins, encoding_range: its resolution; the range is in Angstrom and
            is the cutoff where there is one.
        charge_power: highest power of Z / charge_scale in an atom's input.
        charge_scale: the largest Z in the data.
    """

    hidden: Width = 128
    layers: Depth = 7
    cutoff: Distance | None = None
    encoding: str = "squared"
    encoding_size: Resolution = 32
    encoding_bins: Bins = 64
    encoding_range: Distance = 12.0
    charge_power: Annotated[int, Range(0, 8)] = 2
    charge_scale: Annotated[float, Range(0.5, 1000)] = 9.0


@dataclass(frozen=True)
class NBodyConfig:
    """Sizes of the n-body network; the defaults are the published ones.

    Attributes:
        hidden: width H of every feature.
        layers: message passing steps.
        polarization: ``off``, ``frozen`` or ``movable``.
        particles_move: beside movable points, whether the particles themselves move from layer to
            layer as well, as they do without, instead of staying where they are seen.
    """

    hidden: Width = 64
    layers: Depth = 4
    polarization: str = "off"
    particles_move: bool = False

    @property
    def points_per_particle(self) -> int:
        """How many embeddings there are: of the particle, and of its movable point."""
        return polarization_mode(self.polarization).points_per_atom
