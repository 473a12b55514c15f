"""Densities in neupol's own HDF5 files: one structure of many, or a file with one structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.volumetric.grid import Grid, Volume

UNITS = {"electrons": "e", "energy": "eV", "dipole": "D"}


def read(path: Path) -> Volume:
    """The density of a file that holds one. Errors: UsageError when it holds several."""
    dataset = hdf5.read(path)
    if dataset.size != 1:
        raise UsageError(f"{path}: holds {dataset.size} densities; one is needed here")
    return volume_of(dataset, 0)


def volume_of(dataset: hdf5.Dataset, index: int) -> Volume:
    """Structure `index` of a density dataset with its grid, density and labels."""
    density = dataset.density
    if density is None:
        raise InputError("the file holds structures, but no densities")
    atoms = dataset.atoms(index)
    n1, n2, n3 = (int(n) for n in density.shape[index])
    shape = (n1, n2, n3)
    grid = Grid(density.origin[index], density.step[index], shape)
    values = density.values(index).astype(np.float64)
    labels = {n: t.values[index] for n, t in dataset.targets.items() if t.per == "structure"}
    if density.spin:
        return Volume(atoms, grid, values[:, 0].reshape(shape), values[:, 1].reshape(shape), labels)
    return Volume(atoms, grid, values.reshape(shape), None, labels)


def write(path: Path, volumes: list[Volume], title: str) -> None:
    """A density file with these structures, spin included if any of them has it (float32)."""
    spin = any(volume.spin is not None for volume in volumes)
    with hdf5.DensityWriter(path, source=title, spin=spin) as writer:
        for volume in volumes:
            writer.add(volume.atoms, channels(volume, spin), volume.grid.origin, volume.grid.step)
        writer.label(labels([volume.notes | _counted(volume) for volume in volumes]))


def _counted(volume: Volume) -> dict[str, float]:
    """Its electrons: as stated, or else the sum over the grid."""
    return {"electrons": volume.notes.get("electrons", volume.electrons)}


def labels(notes: Sequence[Mapping[str, Any]]) -> dict[str, hdf5.Target]:
    """What is known of every structure (electrons, energy, dipole) as targets with units."""
    found = {}
    for name, unit in UNITS.items():
        column = [note.get(name) for note in notes]
        if all(value is not None for value in column):
            found[name] = hdf5.Target(np.array(column, dtype=np.float64), unit)
    return found


def channels(volume: Volume, spin: bool) -> np.ndarray:
    """(n1, n2, n3), or with spin (n1, n2, n3, 2): total and up minus down (zero if unknown)."""
    if not spin:
        return volume.values
    second = np.zeros_like(volume.values) if volume.spin is None else volume.spin
    return np.stack([volume.values, second], axis=-1)
