"""Molecules with the paths of their movable points (as in Fig. 3 of Kwak and Jo), as a picture.

A row of panels a structure, a column a model; view.py says from where they are seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.figures import save
from neupol_cli.io.structures import short
from neupol_cli.trajectory.measures import report
from neupol_cli.trajectory.paths import Trajectory, grouped
from neupol_cli.trajectory.polarity import Polarity
from neupol_cli.trajectory.view import (
    axes_of,
    extent,
    half_bonds,
    projected,
    radii_of,
    summary,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = "#8b0000"  # dark red, as in the paper
PANEL = 3.4  # inches


def write(
    path: Path,
    trajectories: Sequence[Trajectory],
    magnify: float,
    beside: Sequence[Polarity] = (),
) -> None:
    """Draws all trajectories.

    Args:
        path: .png, .pdf or .svg.
        trajectories: the paths; every model has every structure.
        magnify: how many times as long as they are paths are drawn.
        beside: of every structure what its atoms are coloured by in a panel before the others.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    columns = grouped(trajectories)
    rows, first = len(next(iter(columns.values()))), int(bool(beside))
    count = first + len(columns)
    figure = Figure(figsize=(PANEL * count, PANEL * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, count, squeeze=False)
    for row, by_model in enumerate(zip(*columns.values(), strict=True)):
        if beside:
            draw_atoms(panels[row, 0], by_model[0], beside[row].colours)
            _frame(panels[row, 0], beside[row].title if row == 0 else "", beside[row].summary())
        for axes, trajectory in zip(panels[row, first:], by_model, strict=True):
            draw(axes, trajectory, magnify)
            text = title(trajectory) if row == 0 else ""
            _frame(axes, text, summary(report(trajectory)))
        low, high = extent(by_model, magnify)
        for axes in panels[row]:
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        panels[row, 0].set_ylabel(short(by_model[0].label), fontsize=9, parse_math=False)
    if magnify != 1.0:
        figure.suptitle(f"paths drawn {magnify:g} times as long as they are", fontsize=9)
    save(figure, path, dpi=160)


def draw(axes: Axes, trajectory: Trajectory, magnify: float) -> None:
    """One molecule and its paths."""
    from ase.data.colors import jmol_colors

    draw_atoms(axes, trajectory, jmol_colors[trajectory.atoms.numbers])
    _, paths = projected(trajectory, magnify)
    for path in paths.transpose(1, 0, 2):  # (T, 3) of every atom
        axes.plot(path[:, 0], path[:, 1], color=PATH, lw=1.1, zorder=1e3)
        axes.scatter(path[1:-1, 0], path[1:-1, 1], s=3, color=PATH, lw=0, zorder=1e3)
        axes.scatter(path[-1, 0], path[-1, 1], s=13, color=PATH, lw=0, zorder=1e3)


def draw_atoms(axes: Axes, trajectory: Trajectory, colours: np.ndarray) -> None:
    """One molecule with colours (A, 3) of its atoms, the farther the paler."""
    places, _ = projected(trajectory, 1.0)
    _draw_bonds(axes, trajectory, axes_of(trajectory.atoms))
    near = _nearness(places[:, 2])[:, None]
    balls = zip(places, radii_of(trajectory.atoms), colours * near + (1 - near), strict=True)
    for place, radius, colour in balls:
        _disc(axes, place, float(radius), colour)


def _nearness(depth: np.ndarray) -> np.ndarray:
    """(A,) 0.55 for the farthest atom to 1 for the nearest: how strong its colour is."""
    reach = max(float(np.ptp(depth)), 1.0)
    return np.asarray(1.0 - 0.45 * (depth.max() - depth) / reach)


def _disc(axes: Axes, place: np.ndarray, radius: float, colour: np.ndarray) -> None:
    from matplotlib.patches import Circle

    edge = np.clip(0.55 * colour, 0, 1)
    disc = Circle((place[0], place[1]), radius, fc=colour, ec=edge, lw=0.7, zorder=10 + place[2])
    axes.add_patch(disc)


def _draw_bonds(axes: Axes, trajectory: Trajectory, view: np.ndarray) -> None:
    """Half of every bond from either end; behind the nearer atom."""
    for start, end in zip(*(ends @ view.T for ends in half_bonds(trajectory)), strict=True):
        depth = 10 + (start[2] + end[2]) / 2 - 0.01
        axes.plot(*zip(start[:2], end[:2], strict=True), color="0.6", lw=3.2, zorder=depth,
                  solid_capstyle="butt")  # fmt: skip


def _frame(axes: Axes, above: str, below: str) -> None:
    """The words around a molecule, and no axes."""
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(above, fontsize=10)
    axes.set_xlabel(below, fontsize=8)
