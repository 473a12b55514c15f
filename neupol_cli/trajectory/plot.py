"""Molecules with the paths of their movable points (as in Fig. 3 of Kwak and Jo), as a picture.

A row of panels a structure, a column a model. A molecule is seen across its widest plane, a little
from above, so that motion out of a ring's plane shows too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli.errors import UsageError
from neupol_cli.figures import save
from neupol_cli.io.files import atomic
from neupol_cli.trajectory.paths import Trajectory, grouped, report

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes

PATH = "#8b0000"  # dark red, as in the paper
TILT = (20.0, 12.0)  # degrees, about the horizontal and the vertical axis
BALL = 0.45  # of the covalent radius
PANEL = 3.4  # inches
MOST = 12  # structures in one picture


def check_count(structures: int, path: Path) -> None:
    """Errors: UsageError where one picture would have too many panels."""
    if structures > MOST:
        raise UsageError(f"{path}: {structures} structures are too many for a picture; draw {MOST}")


def axes_of(atoms: Atoms) -> np.ndarray:
    """(3, 3) rows: right, up and towards the eye; the atoms spread most along the first two."""
    centred = atoms.positions - atoms.positions.mean(0)
    rows = np.linalg.svd(np.vstack((centred, 1e-6 * np.eye(3))))[2]
    # A direction has no sign of its own: each looks to where its largest component is positive.
    largest = np.abs(rows).argmax(1)
    rows = rows * np.sign(rows[range(3), largest])[:, None]
    rows[2] = np.cross(rows[0], rows[1])
    return np.asarray(_tilt() @ rows)


def _tilt() -> np.ndarray:
    a, b = np.radians(TILT)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return np.asarray(about_x @ about_y)


def picture(path: Path, found: Sequence[Trajectory], magnify: float) -> None:
    """Draws all trajectories. Errors: as ``files.atomic``."""
    from matplotlib.figure import Figure

    columns = grouped(found)
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(PANEL * len(columns), PANEL * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, len(columns), squeeze=False)
    for row, same in enumerate(zip(*columns.values(), strict=True)):
        low, high = extent(same, magnify)
        for k, each in enumerate(same):
            draw(panels[row, k], each, magnify)
            panels[row, k].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            if row == 0:
                panels[row, k].set_title(title(each), fontsize=10)
        panels[row, 0].set_ylabel(Path(same[0].label).name, fontsize=9)
    if magnify != 1.0:
        figure.suptitle(f"paths drawn {magnify:g} times as long as they are", fontsize=9)
    save(figure, path, dpi=160)


def projected(found: Trajectory, magnify: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (A, 3) and paths (T, A, 3) as they are seen: right, up, towards the eye; Angstrom."""
    view, centre = axes_of(found.atoms), found.atoms.positions.mean(0)
    moved = found.points[:1] + magnify * (found.points - found.points[:1])
    return (found.atoms.positions - centre) @ view.T, (moved - centre) @ view.T


def extent(same: Sequence[Trajectory], magnify: float) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest corner (2,) of what one structure's panels show, all alike."""
    seen = [each.reshape(-1, 3) for found in same for each in projected(found, magnify)]
    points = np.concatenate(seen)[:, :2]
    return points.min(0) - 0.5, points.max(0) + 0.5


def title(found: Trajectory) -> str:
    """The model and what it was trained on."""
    return f"{found.model}: {', '.join(found.targets)}" if found.targets else found.model


def draw(axes: Axes, found: Trajectory, magnify: float) -> None:
    """One molecule and its paths."""
    from ase.data.colors import jmol_colors

    seen, paths = projected(found, magnify)
    _draw_bonds(axes, found, axes_of(found.atoms))
    near = _nearness(seen[:, 2])
    radii = radii_of(found.atoms)
    for k, number in enumerate(found.atoms.numbers):
        colour = jmol_colors[number] * near[k] + (1 - near[k])
        _disc(axes, seen[k], float(radii[k]), colour)
    for path in paths.transpose(1, 0, 2):  # (T, 3) of every atom
        axes.plot(path[:, 0], path[:, 1], color=PATH, lw=1.1, zorder=1e3)
        axes.scatter(path[1:-1, 0], path[1:-1, 1], s=3, color=PATH, lw=0, zorder=1e3)
        axes.scatter(path[-1, 0], path[-1, 1], s=13, color=PATH, lw=0, zorder=1e3)
    _frame(axes, found)


def _nearness(depth: np.ndarray) -> np.ndarray:
    """(A,) 0.55 for the farthest atom to 1 for the nearest: how strong its colour is."""
    reach = max(float(np.ptp(depth)), 1.0)
    return np.asarray(1.0 - 0.45 * (depth.max() - depth) / reach)


def _disc(axes: Axes, place: np.ndarray, radius: float, colour: np.ndarray) -> None:
    from matplotlib.patches import Circle

    edge = np.clip(0.55 * colour, 0, 1)
    disc = Circle((place[0], place[1]), radius, fc=colour, ec=edge, lw=0.7, zorder=10 + place[2])
    axes.add_patch(disc)


def radii_of(atoms: Atoms) -> np.ndarray:
    """(A,) radii of the balls that atoms are drawn as, Angstrom."""
    from ase.data import covalent_radii

    return np.asarray(BALL * covalent_radii[atoms.numbers])


def half_bonds(found: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Half of every bond from either end: where it leaves the ball, and its middle (M, 3).

    Relative to the molecule's centre, Angstrom.
    """
    atoms, bonds = found.atoms, found.bonds
    owners = (atoms.positions - atoms.positions.mean(0))[bonds.owners]
    ways = bonds.vectors / bonds.lengths[:, None]
    starts = owners + 0.9 * radii_of(atoms)[bonds.owners, None] * ways
    return starts, owners + 0.51 * bonds.vectors  # no seam


def _draw_bonds(axes: Axes, found: Trajectory, view: np.ndarray) -> None:
    """Half of every bond from either end; behind the nearer atom."""
    for start, end in zip(*(each @ view.T for each in half_bonds(found)), strict=True):
        depth = 10 + (start[2] + end[2]) / 2 - 0.01
        axes.plot(*zip(start[:2], end[:2], strict=True), color="0.6", lw=3.2, zorder=depth,
                  solid_capstyle="butt")  # fmt: skip


def _frame(axes: Axes, found: Trajectory) -> None:
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(summary(report(found)), fontsize=8)


def summary(found: dict[str, Any]) -> str:
    """The numbers under a panel."""
    text = f"mean |x~ - x| {found['mean_displacement']:.3f} Å"
    if found["within_half_bond"] is not None:
        text += f", {100 * found['within_half_bond']:.0f} % within half a bond"
    return text


def _page(path: Path, found: Sequence[Trajectory], magnify: float) -> None:
    from neupol_cli.trajectory.html import page

    with atomic(path) as partial:
        partial.write_text(page(found, magnify), encoding="utf-8")


FORMATS: dict[str, Callable[[Path, Sequence[Trajectory], float], None]] = {
    ".png": picture,
    ".pdf": picture,
    ".svg": picture,
    ".html": _page,
}


def plotter(path: Path) -> Callable[[Path, Sequence[Trajectory], float], None]:
    """How to draw to a file of that name. Errors: UsageError for another ending."""
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: the ending is one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]
