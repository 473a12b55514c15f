"""Neural Polarization's modes: how many points an atom has, and whether the second one moves."""

from __future__ import annotations

from typing import NamedTuple

from neupol_cli.errors import UsageError


class PolarizationMode(NamedTuple):
    """What a mode means.

    Attributes:
        points_per_atom: 1, or 2 with the second point of Kwak and Jo.
        moves: whether that second point leaves its atom.
    """

    points_per_atom: int
    moves: bool


MODES = {
    "off": PolarizationMode(1, False),  # the network as published
    "frozen": PolarizationMode(2, False),  # the ablation {x, x} of Table 3
    "movable": PolarizationMode(2, True),
}


def polarization_mode(name: str) -> PolarizationMode:
    """The mode of that name.

    Raises:
        UsageError: there is none; the message lists them.
    """
    if name not in MODES:
        raise UsageError(f"polarization is one of {', '.join(MODES)}, not {name!r}")
    return MODES[name]
