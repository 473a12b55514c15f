"""What files do not say and was told from what they hold: notes of a volume, and lines of them."""

from __future__ import annotations

import sys

from neupol_cli.io.volumetric.grid import Volume

# Notes that hold what was taken, and why.
PERIODICITY = "periodicity"
UNIT = "unit of the values"


def note(name: str, volume: Volume, kinds: tuple[str, ...] = (PERIODICITY, UNIT)) -> str:
    """A line about what was guessed; nothing where nothing was."""
    reasons = [str(volume.notes[kind]) for kind in kinds if kind in volume.notes]
    return f"{name}: {'; '.join(reasons)}" if reasons else ""


def tell(name: str, volume: Volume, kinds: tuple[str, ...] = (PERIODICITY, UNIT)) -> None:
    """The same line on stderr."""
    line = note(name, volume, kinds)
    if line:
        print(f"neupol: {line}", file=sys.stderr)
