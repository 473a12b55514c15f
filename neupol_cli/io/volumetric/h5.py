"""Densities in neupol's own HDF5 files: one structure of many, or a file with one structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric.format import Entry, VolumetricFormat
from neupol_cli.io.volumetric.grid import ATOM_UNCERTAINTY, Grid, Volume

if TYPE_CHECKING:
    from types import TracebackType

UNITS = {"electrons": "e", "energy": "eV", "dipole": "D"}
ATOMIC_UNITS = {"forces": "eV/Angstrom", ATOM_UNCERTAINTY: "e"}  # of what has a row an atom


def read(path: Path) -> Volume:
    """The density of a file that holds one.

    Raises:
        UsageError: the file holds several.
        InputError: it is damaged or foreign.
    """
    dataset = hdf5.read(path)
    if dataset.size != 1:
        raise UsageError(f"{path}: holds {dataset.size} densities; one is needed here")
    return volume_of(dataset, 0)


def entries(path: Path) -> Iterator[Entry]:
    """Every density of a file with the split that it is in; errors as `hdf5.read`."""
    dataset = hdf5.read(path)
    partition = next(iter(dataset.splits.values()), {})
    split_of = {int(index): name for name, indices in partition.items() for index in indices}
    for index in range(dataset.size):
        yield Entry(f"{path}[{index}]", volume_of(dataset, index), split_of.get(index))


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
    rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
    notes = {
        name: target.values[rows if target.per == "atom" else index]
        for name, target in dataset.targets.items()
    }
    if density.spin:
        return Volume(atoms, grid, values[:, 0].reshape(shape), values[:, 1].reshape(shape), notes)
    return Volume(atoms, grid, values.reshape(shape), None, notes)


class VolumeWriter:
    """A file of several structures: ``with VolumeWriter(path, title, spin) as writer``.

    The file appears when the block ends well, with every structure's electrons as a label.
    """

    def __init__(self, path: Path, title: str, spin: bool) -> None:
        self._writer = DensityWriter(path, source=title, spin=spin)
        self._notes: list[Mapping[str, object]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._writer)
        return self

    def add(self, volume: Volume) -> None:
        """Append one structure with its density (spin, where the file has it, is zero if unknown).

        Raises:
            InputError: values that are not finite.
        """
        grid, values = volume.grid, channels(volume, self._writer.spin)
        self._writer.add(volume.atoms, values, grid.origin, grid.step)
        self._notes.append({"electrons": volume.electrons} | volume.notes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if kind is None:
            self._writer.label(labels(self._notes))
        return self._stack.__exit__(kind, error, traceback)


def write(path: Path, volumes: Sequence[Volume], title: str) -> None:
    """A density file with these structures, spin included if any of them has it (float32)."""
    with VolumeWriter(path, title, any(volume.spin is not None for volume in volumes)) as writer:
        for volume in volumes:
            writer.add(volume)


def labels(notes: Sequence[Mapping[str, object]]) -> dict[str, hdf5.Target]:
    """What is known of structures (electrons, energy, dipole) and atoms, as targets with units."""
    targets = {}
    for name, unit in (UNITS | ATOMIC_UNITS).items():
        column = [note.get(name) for note in notes]
        if not column or any(value is None for value in column):
            continue
        if name in ATOMIC_UNITS:
            rows = [np.asarray(values, dtype=np.float64) for values in column]
            targets[name] = hdf5.Target(np.concatenate(rows), unit, "atom")
        else:
            targets[name] = hdf5.Target(np.array(column, dtype=np.float64), unit)
    return targets


def channels(volume: Volume, spin: bool) -> np.ndarray:
    """(n1, n2, n3), or with spin (n1, n2, n3, 2): total and up minus down (zero if unknown)."""
    if not spin:
        return volume.values
    second = np.zeros_like(volume.values) if volume.spin is None else volume.spin
    return np.stack([volume.values, second], axis=-1)


def _write_one(path: Path, volume: Volume, title: str) -> None:
    write(path, [volume], title)


FORMAT = VolumetricFormat(
    name="HDF5",
    suffixes=(".h5", ".hdf5"),
    read_file=read,
    write_file=_write_one,
    open_writer=VolumeWriter,
    entries_of=entries,
    gzipped=False,
    holds_spin=True,
    densities_only=True,
)
