"""How a molecule and its paths are seen: where every ball, bond and path lies before the eye.

Pictures and web pages draw from these alike. A molecule is seen across its widest plane, a little
from above, so that motion out of a ring's plane shows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.trajectory.measures import Report
from neupol_cli.trajectory.paths import Trajectory

if TYPE_CHECKING:
    from ase import Atoms

TILT = (20.0, 12.0)  # degrees, about the horizontal and the vertical axis
BALL = 0.45  # of the covalent radius


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


def radii_of(atoms: Atoms) -> np.ndarray:
    """(A,) radii of the balls that atoms are drawn as, Angstrom."""
    from ase.data import covalent_radii

    return np.asarray(BALL * covalent_radii[atoms.numbers])


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
