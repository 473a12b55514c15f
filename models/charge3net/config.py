"""ChargE3Net's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neupol_cli.errors import UsageError
from neupol_cli.models.polarization_modes import (
    DENSITY_MODES,
    PolarizationMode,
    polarization_mode,
)
from neupol_cli.models.settings import (
    Bins,
    Degree,
    Depth,
    Distance,
    Exponent,
    Probes,
    Range,
    Resolution,
    Scale,
    Softening,
    Species,
)

Channels = Annotated[int, Range(1, 2048)]  # a path's weights are hidden x channels
# R(r): the published network, or a table that is learned.
ENCODINGS = ("gaussian", "learned")


@dataclass(frozen=True)
class ChargE3NetConfig:
    """ChargE3Net's settings; the defaults are the paper's.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        mul, lmax: irreps round(mul / (lmax + 1) / (2l + 1)) of both parities, l = 0..lmax.
        layers: of atoms and of probes.
        cutoff: Angstrom.
        basis_size: Gaussians of the radial basis.
        hidden: width of the radial network.
        embedding: channels of the first layer's messages; None takes one a species, as published.
        num_neighbors: typical number of neighbours, for scale.
        spin: two columns, (total, up - down), from two even scalars.
        pseudoscalar_spin: read spin as the published code does: (a + b, a), b a pseudoscalar.
        polarization: ``off``; ``movable`` adds a second, movable point to every atom,
            ``frozen`` the same without motion; ``late`` adds one that moves once, behind the last
            layer among atoms, and sends to the probes only.
        softening: within how many Angstrom of each other the lengths and directions between two
            points are softened, where two of an atom exchange messages; 0 for none.
        encoding: ``gaussian``, the published radial network, or ``learned``, a table.
        bins: nodes of a learned table.
        promolecule: Gaussians an element of the spherical atoms that are summed and added;
            0 for none, as published.
        probes: drawn from each structure in a step of training.
        sampling_exponent: they are drawn in proportion to density to this power; 0, as published,
            draws all alike.
    """

    species: Species = (1, 6, 7, 8, 9)
    mul: Channels = 500
    lmax: Degree = 4
    layers: Depth = 3
    cutoff: Distance = 4.0
    basis_size: Resolution = 20
    hidden: Channels = 100
    embedding: Channels | None = None
    num_neighbors: Scale = 20.0
    spin: bool = False
    pseudoscalar_spin: bool = False
    polarization: str = "off"
    softening: Softening = 0.5
    encoding: str = "gaussian"
    bins: Bins = 64
    promolecule: Annotated[int, Range(0, 64)] = 0
    probes: Probes = 200
    sampling_exponent: Exponent = 0.0

    @property
    def mode(self) -> PolarizationMode:
        """What ``polarization`` means.

        Raises:
            UsageError: there is no such mode.
        """
        return polarization_mode(self.polarization, DENSITY_MODES)

    @property
    def points_per_atom(self) -> int:
        """How many embeddings an element has: atom, and a point that exchanges messages."""
        return self.mode.points_per_atom

    @property
    def point_types(self) -> int:
        """How many embeddings there are in all."""
        return self.points_per_atom * len(self.species)

    @property
    def sender_types(self) -> int:
        """How many kinds of points send to probes: elements, and their movable points."""
        return self.mode.senders_per_atom * len(self.species)


def check(config: ChargE3NetConfig) -> None:
    """Refuses settings that do not exist, or that do not go together.

    Raises:
        UsageError: naming what there is.
    """
    if config.encoding not in ENCODINGS:
        raise UsageError(f"encoding is one of {', '.join(ENCODINGS)}, not {config.encoding!r}")
    moves = config.mode.moves
    if config.pseudoscalar_spin and not config.spin:
        raise UsageError("pseudoscalar_spin says how spin is read: it goes with spin=true")
    least = (config.lmax + 1) * (2 * config.lmax + 1) // 2 + 1  # irreps.py rounds
    if config.mul < least:
        raise UsageError(
            f"mul={config.mul} leaves nothing for l = {config.lmax}: with lmax={config.lmax} it is "
            f"{least} at least"
        )
    if moves and config.lmax < 1:
        raise UsageError("movable points need vectors: lmax of at least 1")
