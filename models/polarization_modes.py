"""Neural Polarization's modes: how many points an atom has, and whether the second one moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from neupol_cli.errors import UsageError


class PolarizationMode(NamedTuple):
    """What a mode means.

    Attributes:
        points_per_atom: that exchange messages: 1, or 2 with the second point of Kwak and Jo.
        moves: whether an atom has a point that leaves it.
    """

    points_per_atom: int
    moves: bool

    @property
    def senders_per_atom(self) -> int:
        """Points of a density network that its probes read: a point that moves is always one."""
        return 2 if self.moves else self.points_per_atom


MODES = {
    "off": PolarizationMode(1, False),  # the network as published
    "frozen": PolarizationMode(2, False),  # the ablation {x, x} of Table 3
    "movable": PolarizationMode(2, True),
}
# A readout of atoms would not see a point that moves behind the last layer; probes do.
DENSITY_MODES = {**MODES, "late": PolarizationMode(1, True)}


def polarization_mode(name: str, modes: Mapping[str, PolarizationMode] = MODES) -> PolarizationMode:
    """The mode of that name.

    Raises:
        UsageError: there is none; the message lists them.
    """
    if name not in modes:
        raise UsageError(f"polarization is one of {', '.join(modes)}, not {name!r}")
    return modes[name]
