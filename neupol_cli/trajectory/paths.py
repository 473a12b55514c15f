"""The paths of movable points through the layers of a model (Kwak and Jo, sections 5.2 and 6).

A network of T layers places its movable points at x~_0 = x .. x~_{T-1}; there is no x~_T, since
nothing comes behind the last layer that could see it. In a density network there is: the probes
read the points at x~_T, and late points (models/charge3net/motion.py) move there alone. All lengths
are in Angstrom.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.domain.domain import Domain
from neupol_cli.errors import DivergedError, UsageError
from neupol_cli.models.polarization_modes import DENSITY_MODES
from neupol_cli.trajectory.skeleton import Skeleton, skeleton

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.base import Model

TWICE = 4  # times the pairs, of twice the points


@dataclass(frozen=True)
class Trajectory:
    """The paths of one structure's movable points under one model.

    Attributes:
        label: the structure's name.
        atoms: the structure.
        model: the model's name.
        targets: what that model was trained on.
        points: (T, A, 3) x~_0 .. x~_{T-1}, Angstrom; (T + 1, A, 3) of a density network.
        bonds: bonds and rings of the structure.
    """

    label: str
    atoms: Atoms
    model: str
    targets: tuple[str, ...]
    points: np.ndarray
    bonds: Skeleton


def grouped(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """The trajectories of each model, both in the order in which they come."""
    by_model: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        by_model[trajectory.model].append(trajectory)
    return dict(by_model)


def check_movable(model: Model, name: str) -> None:
    """Refuses a model whose points do not move.

    Raises:
        UsageError: there are no movable points to follow.
    """
    mode = model.polarization_mode
    if mode is None:
        raise UsageError(
            f"{name}: moves no points; trajectories are those of networks for properties "
            "and of charge3net, trained with neupol fit --polarization movable"
        )
    if not DENSITY_MODES[mode].moves:
        raise UsageError(
            f"{name}: has no movable points (polarization is {mode}); "
            "train one with neupol fit --polarization movable"
        )


def trajectory(model: Model, name: str, label: str, atoms: Atoms) -> Trajectory:
    """Follows the movable points of a structure through a model's layers.

    Args:
        model: a model with movable points.
        name: what to call it.
        label: the structure's name.
        atoms: the structure.

    Raises:
        InputError: an element, a charge or a multiplicity that the model never saw.
        UsageError: as :func:`check_movable`.
        DivergedError: a point is nowhere.
    """
    check_movable(model, name)
    model.check([atoms], [label])
    domain = Domain.of(model.header)
    if domain is not None:
        domain.check(atoms, label)
    (points,) = paths(model, [atoms])
    if not np.isfinite(points).all():
        raise DivergedError(
            f"{label}: the points of {name} move to places that are not finite: its weights are "
            "not sound"
        )
    return Trajectory(label, atoms, name, tuple(model.targets), points, skeleton(atoms))


def paths(model: Model, structures: Sequence[Atoms]) -> list[np.ndarray]:
    """(T, A, 3) Angstrom of each structure, all at once; for models that move their points."""
    import torch

    from neupol_cli.models.batching import at_work, held
    from neupol_cli.models.nn.graph import Graph

    like = next(model.parameters())
    size = held([len(atoms) for atoms in structures], model.cutoff, TWICE)
    with torch.no_grad(), at_work.taken(size):
        graph = Graph.from_atoms(structures, like.dtype, like.device)
        moved = torch.stack(model.movable_points(graph)).double().cpu().numpy()
    # The network rounds positions to its own numbers; the displacements are what it says.
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    moves = np.split(moved - moved[:1], ends, axis=1)
    return [atoms.positions + move for atoms, move in zip(structures, moves, strict=True)]
