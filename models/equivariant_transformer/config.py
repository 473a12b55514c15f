"""The equivariant transformer's sizes and variants."""

from __future__ import annotations

from dataclasses import dataclass

from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.settings import Bins, Depth, Distance, Heads, Resolution, Width


@dataclass(frozen=True)
class EquivariantTransformerConfig(PropertyConfig):
    """The equivariant transformer's sizes; the defaults are the published QM9 network.

    Without ``outputs`` targets are read out as published: mu is the length of a dipole, r2 a
    spatial extent, all others are scalars. With ``softening`` the lengths that heads read of
    vectors are smooth where these vanish.

    Attributes:
        hidden: width H of scalars and vectors.
        layers: attention layers.
        heads: attention heads; they share out the H channels.
        cutoff: Angstrom.
        encoding: how a distance enters (models/distance.py); ``expnormal`` as published.
        encoding_size, encoding_bins: its resolution over [0, cutoff].
        vector_cutoff: whether the cutoff's envelope multiplies the vector messages too, so that
            energies are continuous; the paper's own numbers were made without.
    """

    hidden: Width = 256
    layers: Depth = 8
    heads: Heads = 8
    cutoff: Distance = 5.0
    encoding: str = "expnormal"
    encoding_size: Resolution = 64
    encoding_bins: Bins = 64
    vector_cutoff: bool = True
