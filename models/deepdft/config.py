"""Settings of DeepDFT's two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neupol_cli.models.settings import (
    Depth,
    Distance,
    Exponent,
    Probes,
    Range,
    Resolution,
    Species,
    Width,
)


@dataclass(frozen=True)
class DeepDFTConfig:
    """What both networks' settings have.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        hidden: width H of every feature.
        layers: of atoms and of probes.
        cutoff: Angstrom.
        probes: drawn from each structure in a step of training.
        sampling_exponent: they are drawn in proportion to density to this power; 0, as published,
            draws all alike.
        spin: there is none; a data set's spin density is left alone.
    """

    species: Species = (1, 6, 7, 8, 9)
    hidden: Width = 128
    layers: Depth = 3
    cutoff: Distance = 4.0
    probes: Probes = 1000
    sampling_exponent: Exponent = 0.0
    spin: bool = False


@dataclass(frozen=True)
class PaiNNDensityConfig(DeepDFTConfig):
    """Settings of the equivariant network; the defaults are the published ones.

    Attributes:
        basis: sines.
    """

    basis: Resolution = 30


@dataclass(frozen=True)
class SchNetDensityConfig(DeepDFTConfig):
    """Settings of the invariant network; the defaults are the published ones.

    Attributes:
        step: Angstrom between the Gaussians, and their width.
    """

    layers: Depth = 6
    step: Annotated[float, Range(0.01, 10)] = 0.1
