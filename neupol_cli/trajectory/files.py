"""Trajectories of movable points as files: HDF5 for programs, extended xyz for ASE and OVITO.

    /numbers [A]  /positions [A,3]  /offsets [N+1]  /cell [N,3,3]  /pbc [N,3]     the structures
    /models/K/points [T,A,3]        x~_0, x~_1, ..; attributes ``model``, ``targets``, ``unit``

The header names the structures, one a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import UsageError
from neupol_cli.io import hdf5, hdf5_file, said
from neupol_cli.io.files import atomic
from neupol_cli.io.structure_formats import comment
from neupol_cli.trajectory.paths import Trajectory, grouped

if TYPE_CHECKING:
    from ase import Atoms

KIND = "trajectory"


@dataclass(frozen=True)
class Paths:
    """What an HDF5 file holds.

    Attributes:
        labels: names of the N structures.
        numbers, positions, offsets: the structures, flat as in every file of neupol.
        points: model -> (T, A, 3) Angstrom.
        targets: model -> what it was trained on.
    """

    labels: list[str]
    numbers: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    points: dict[str, np.ndarray]
    targets: dict[str, tuple[str, ...]]


def write_hdf5(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """All trajectories in one file.

    Raises:
        StorageError: it cannot be written.
    """
    by_model = grouped(trajectories)
    first = next(iter(by_model.values()))
    structures = hdf5.from_atoms([one.atoms for one in first], "structures", "")
    with atomic(path) as partial, hdf5_file.NewFile(partial) as new:
        hdf5.put_dataset(new.file, structures)
        for k, (name, group) in enumerate(by_model.items()):
            points = np.concatenate([one.points for one in group], axis=1)  # (T, A, 3)
            labels = {"unit": "Angstrom", "model": name, "targets": " ".join(group[0].targets)}
            hdf5_file.put(new.file, f"/models/{k}/points", points, **labels)
        hdf5_file.close_checksum(new.file, KIND, {"source": "\n".join(one.label for one in first)})


def read_hdf5(path: str | Path) -> Paths:
    """Reads what :func:`write_hdf5` wrote.

    Raises:
        InputError: the file is damaged or something else.
    """
    with hdf5_file.opened(path) as file:
        hdf5_file.verify_checksum(file)
        offsets = hdf5_file.get(file, "/offsets", "int64", (None,))
        atoms = int(offsets[-1])
        points, targets = {}, {}
        for key in file["models"]:
            item = file[f"/models/{key}/points"]
            name = str(item.attrs["model"])
            points[name] = hdf5_file.get(file, item.name, "float64", (None, atoms, 3))
            targets[name] = tuple(str(item.attrs["targets"]).split())
        return Paths(
            str(file.attrs["source"]).split("\n"),
            hdf5_file.get(file, "/numbers", "int64", (atoms,)),
            hdf5_file.get(file, "/positions", "float64", (atoms, 3)),
            offsets,
            points,
            targets,
        )


def write_extxyz(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """One frame a layer: the atoms, then their movable points as sites ``X``.

    ``owner`` says whose point a site is, an atom is its own; ``Displacement`` is how far a site is
    from its atom (OVITO draws it as arrows).

    Raises:
        StorageError: the file cannot be written.
    """
    from ase.io import write

    frames = [frame for one in trajectories for frame in _frames(one)]
    frames[0].info |= provenance.commented()
    with atomic(path) as partial:
        write(partial, frames, format="extxyz")


def _frames(trajectory: Trajectory) -> list[Atoms]:
    from ase import Atoms

    count = len(trajectory.atoms)
    frames = []
    for layer, points in enumerate(trajectory.points):
        frame = Atoms(
            np.concatenate((trajectory.atoms.numbers, np.zeros(count, int))),
            np.concatenate((trajectory.atoms.positions, points)),
            cell=trajectory.atoms.cell,
            pbc=trajectory.atoms.pbc,
        )
        frame.new_array("owner", np.tile(np.arange(count), 2))
        moved = np.concatenate((np.zeros((count, 3)), points - trajectory.points[0]))
        frame.new_array("Displacement", moved)  # the name that OVITO knows
        names = {"structure": trajectory.label, "model": trajectory.model, "layer": layer}
        frame.info |= comment.writable(said.of(trajectory.atoms) | names)
        frames.append(frame)
    return frames


FORMATS: dict[str, Callable[[Path, Sequence[Trajectory]], None]] = {
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
    ".extxyz": write_extxyz,
    ".xyz": write_extxyz,
}


def writer(path: Path) -> Callable[[Path, Sequence[Trajectory]], None]:
    """How to write to a file of that name.

    Raises:
        UsageError: trajectories are in no file with this ending.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: the ending is one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]
