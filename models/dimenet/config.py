"""DimeNet++'s settings."""

from __future__ import annotations

from dataclasses import dataclass

from neupol_cli.errors import UsageError
from neupol_cli.models.base import PropertyConfig

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

    hidden: int = 128
    layers: int = 4
    triplet: int = 64
    basis: int = 8
    output: int = 256
    spherical: int = 7
    radial: int = 6
    cutoff: float = 5.0
    envelope: int = 5
    before_skip: int = 1
    after_skip: int = 2
    output_layers: int = 3
    encoding: str = "bessel"
    encoding_size: int = 16
    encoding_bins: int = 64
    output_start: str = "zeros"


def check(config: DimeNetConfig) -> None:
    """Refuses what this network cannot be.

    Raises:
        UsageError: polarization, or an unknown start of the output.
    """
    if config.polarization != "off":
        raise UsageError(
            "dimenet keeps its state on edges, not on points, and takes no polarization; "
            "choose egnn, equivariant-transformer or equiformer for it"
        )
    if config.output_start not in OUTPUT_STARTS:
        known = ", ".join(OUTPUT_STARTS)
        raise UsageError(f"output_start is one of {known}, not {config.output_start!r}")
