"""Which file a picture of trajectories can be: a drawing, or a page to turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from neupol_cli.errors import UsageError
from neupol_cli.trajectory import html, plot
from neupol_cli.trajectory.paths import Trajectory
from neupol_cli.trajectory.polarity import Polarity

LARGEST = 12  # structures in one picture

Plotter = Callable[[Path, Sequence[Trajectory], float, Sequence[Polarity]], None]

PLOTTERS: dict[str, Plotter] = {
    ".png": plot.write,
    ".pdf": plot.write,
    ".svg": plot.write,
    ".html": html.write,
}


def check_count(structures: int, path: Path) -> None:
    """Refuses more panels than a picture can show.

    Raises:
        UsageError: there are more than LARGEST structures.
    """
    if structures > LARGEST:
        raise UsageError(
            f"{path}: {structures} structures are too many for a picture; draw {LARGEST}"
        )


def plotter(path: Path) -> Plotter:
    """How to draw to a file of that name: a function of path, trajectories, magnification
    and what is beside them.

    Raises:
        UsageError: no picture has this ending.
    """
    if path.suffix not in PLOTTERS:
        raise UsageError(f"{path}: the ending is one of {', '.join(PLOTTERS)}")
    return PLOTTERS[path.suffix]
