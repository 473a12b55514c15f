"""DimeNet++'s settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neupol_cli.errors import UsageError
from neupol_cli.models.base import PropertyConfig
from neupol_cli.models.settings import Bins, Depth, Distance, FewLayers, Range, Resolution, Width

OUTPUT_STARTS = ("zeros", "glorot")


@dataclass(frozen=True)
class DimeNetConfig(PropertyConfig):
    """DimeNet++'s sizes; the defaults are the published QM9 network.

    Attributes:
        hidden: width of an edge's message.
        layers: interaction blocks.
        triplet: width of a message while it passes to the next edge.
        basis: width between the two projections of a basis.
        output: width of the output blocks.
        spherical, radial: how many functions of an angle, and of a distance for each of them.
        cutoff: Angstrom.
        envelope: exponent of the envelope that takes the bases to zero at the cutoff.
        before_skip, after_skip, output_layers: how many residual and output layers.
        encoding: ``bessel`` is DimeNet++'s own; others as in models/distance.py.
        encoding_size, encoding_bins: resolution of these others.
        output_start: ``zeros`` (published for mu, homo, lumo, zpve) or ``glorot`` (the others).
    """

    hidden: Width = 128
    layers: Depth = 4
    triplet: Width = 64
    basis: Width = 8
    output: Width = 256
    spherical: Annotated[int, Range(1, 16)] = 7
    radial: Annotated[int, Range(1, 64)] = 6
    cutoff: Distance = 5.0
    envelope: Annotated[int, Range(0, 20)] = 5
    before_skip: FewLayers = 1
    after_skip: FewLayers = 2
    output_layers: FewLayers = 3
    encoding: str = "bessel"
    encoding_size: Resolution = 16
    encoding_bins: Bins = 64
    output_start: str = "zeros"


def check(config: DimeNetConfig) -> None:
    """Refuses what this network cannot be.

    Raises:
        UsageError: polarization, or an unknown start of the output.
    """
    if config.polarization != "off":
        raise UsageError(
            "dimenet keeps its state on edges, not on points, and takes no polarization; "
            "choose egnn, equivariant-transformer, equiformer or painn for it"
        )
    if config.output_start not in OUTPUT_STARTS:
        known = ", ".join(OUTPUT_STARTS)
        raise UsageError(f"output_start is one of {known}, not {config.output_start!r}")
