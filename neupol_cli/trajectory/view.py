"""How a molecule and its paths are seen: where every ball, bond and path lies before the eye.

Pictures and web pages draw from these alike. A molecule is seen across its widest plane, a little
from above, so that motion out of a ring's plane shows too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neupol_cli.surfaces.balls import axes_of, radii_of
from neupol_cli.trajectory.measures import Report
from neupol_cli.trajectory.paths import Trajectory


def projected(trajectory: Trajectory, magnify: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (A, 3) and paths (T, A, 3) as they are seen: right, up, towards the eye; Angstrom."""
    view, centre = axes_of(trajectory.atoms), trajectory.atoms.positions.mean(0)
    moved = trajectory.points[:1] + magnify * (trajectory.points - trajectory.points[:1])
    return (trajectory.atoms.positions - centre) @ view.T, (moved - centre) @ view.T


def extent(row: Sequence[Trajectory], magnify: float) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest corner (2,) of what one structure's panels show, all alike."""
    shown = [points.reshape(-1, 3) for one in row for points in projected(one, magnify)]
    points = np.concatenate(shown)[:, :2]
    return points.min(0) - 0.5, points.max(0) + 0.5


def half_bonds(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Half of every bond from either end: where it leaves the ball, and its middle (M, 3).

    Relative to the molecule's centre, Angstrom.
    """
    atoms, bonds = trajectory.atoms, trajectory.bonds
    ends = (atoms.positions - atoms.positions.mean(0))[bonds.owners]
    directions = bonds.vectors / bonds.lengths[:, None]
    starts = ends + 0.9 * radii_of(atoms)[bonds.owners, None] * directions
    return starts, ends + 0.51 * bonds.vectors  # no seam


def title(trajectory: Trajectory) -> str:
    """The model and what it was trained on."""
    return (
        f"{trajectory.model}: {', '.join(trajectory.targets)}"
        if trajectory.targets
        else trajectory.model
    )


def summary(report: Report) -> str:
    """The numbers under a panel."""
    text = f"mean |x~ - x| {report['mean_displacement']:.3f} Å"
    if report["within_half_bond"] is not None:
        text += f", {100 * report['within_half_bond']:.0f} % within half a bond"
    return text
