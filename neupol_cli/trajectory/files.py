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

from neupol_cli.errors import UsageError
from neupol_cli.io import hdf5
from neupol_cli.io import hdf5_file as parts
from neupol_cli.io.files import atomic
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


def write_hdf5(path: Path, found: Sequence[Trajectory]) -> None:
    """All trajectories in one file. Errors: as ``files.atomic``."""
    by_model = grouped(found)
    first = next(iter(by_model.values()))
    structures = hdf5.from_atoms([each.atoms for each in first], "structures", "")
    with atomic(path) as partial, parts.NewFile(partial) as new:
        hdf5.put_dataset(new.file, structures)
        for k, (name, group) in enumerate(by_model.items()):
            points = np.concatenate([each.points for each in group], axis=1)  # (T, A, 3)
            labels = {"unit": "Angstrom", "model": name, "targets": " ".join(group[0].targets)}
            parts.put(new.file, f"/models/{k}/points", points, **labels)
        parts.close_checksum(new.file, KIND, {"source": "\n".join(each.label for each in first)})


def read_hdf5(path: str | Path) -> Paths:
    """Reads what :func:`write_hdf5` wrote.

    Raises:
        InputError: it is damaged or something else.
    """
    with parts.opened(path) as file:
        parts.verify_checksum(file)
        offsets = parts.get(file, "/offsets", "int64", (None,))
        atoms = int(offsets[-1])
        points, targets = {}, {}
        for key in file["models"]:
            item = file[f"/models/{key}/points"]
            name = str(item.attrs["model"])
            points[name] = parts.get(file, item.name, "float64", (None, atoms, 3))
            targets[name] = tuple(str(item.attrs["targets"]).split())
        return Paths(
            str(file.attrs["source"]).split("\n"),
            parts.get(file, "/numbers", "int64", (atoms,)),
            parts.get(file, "/positions", "float64", (atoms, 3)),
            offsets,
            points,
            targets,
        )


def write_extxyz(path: Path, found: Sequence[Trajectory]) -> None:
    """One frame a layer: the atoms, then their movable points as sites ``X``.

    ``owner`` says whose point a site is, an atom is its own; ``Displacement`` is how far a site is
    from its atom (OVITO draws it as arrows). Errors: as ``files.atomic``.
    """
    from ase.io import write

    frames = [frame for each in found for frame in _frames(each)]
    with atomic(path) as partial:
        write(partial, frames, format="extxyz")


def _frames(found: Trajectory) -> list[Atoms]:
    from ase import Atoms

    count = len(found.atoms)
    frames = []
    for layer, points in enumerate(found.points):
        frame = Atoms(
            np.concatenate((found.atoms.numbers, np.zeros(count, int))),
            np.concatenate((found.atoms.positions, points)),
            cell=found.atoms.cell,
            pbc=found.atoms.pbc,
        )
        frame.new_array("owner", np.tile(np.arange(count), 2))
        moved = np.concatenate((np.zeros((count, 3)), points - found.points[0]))
        frame.new_array("Displacement", moved)  # the name that OVITO knows
        frame.info |= {"structure": found.label, "model": found.model, "layer": layer}
        frames.append(frame)
    return frames


FORMATS: dict[str, Callable[[Path, Sequence[Trajectory]], None]] = {
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
    ".extxyz": write_extxyz,
    ".xyz": write_extxyz,
}


def writer(path: Path) -> Callable[[Path, Sequence[Trajectory]], None]:
    """How to write to a file of that name. Errors: UsageError for another ending."""
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: the ending is one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]
