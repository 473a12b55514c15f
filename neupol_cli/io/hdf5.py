"""Datasets in HDF5: ragged arrays, flat and contiguous, so that an epoch is slicing, not parsing.

    /numbers [A]  /positions [A,3]  /offsets [N+1]  /cell [N,3,3]  /pbc [N,3]  /ids [N]
    /info [B]                         UTF-8: a line of JSON a structure, what its file says of it
    /targets/NAME [N] | [A] | [A,3] | [N,3,3]   with ``unit`` and ``per`` (structure or atom)
    /references/NAME [119]            energy of a free atom by atomic number, NaN where unknown
    /splits/NAME/{train,valid,test}   indices of structures

Density files (`density_dataset.py`) add ``/density``. Every array carries a SHA-256 that is
checked when it is read; files appear at once or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.io import hdf5_file, said
from neupol_cli.io.charges import STATED, electrons, lowest, state
from neupol_cli.io.density_dataset import Density
from neupol_cli.io.files import atomic

if TYPE_CHECKING:
    import ase
    import h5py

__all__ = ["Dataset", "Density", "Target", "from_atoms", "read", "write"]

KINDS = ("structures", "density", "nbody")
HIGHEST = 118  # the last element that has a name


@dataclass(frozen=True)
class Target:
    """What is to be learnt: a number, vector or tensor (a stress) a structure or an atom."""

    values: np.ndarray  # (N,) | (A,), or with (3,) or (3,3) behind; float64
    unit: str
    per: str = "structure"  # or "atom"


@dataclass(frozen=True)
class Dataset:
    """N structures with A atoms in all; atom a of structure i is row ``offsets[i] + a``."""

    kind: str  # one of KINDS
    numbers: np.ndarray  # (A,) int64 atomic numbers
    positions: np.ndarray  # (A,3) float64 Angstrom
    offsets: np.ndarray  # (N+1,) int64
    cell: np.ndarray | None = None  # (N,3,3) float64 Angstrom, rows are lattice vectors
    pbc: np.ndarray | None = None  # (N,3) bool
    targets: dict[str, Target] = field(default_factory=dict)
    splits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    references: dict[str, dict[int, float]] = field(default_factory=dict)  # in the target's unit
    source: str = ""  # where the data come from, for people
    ids: np.ndarray | None = None  # (N,) int64 numbers of the structures in their source
    info: Sequence[said.Info] = ()  # of each structure, or of none
    density: Density | None = None

    @property
    def size(self) -> int:
        """Number of structures."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """(N,) atoms in each structure."""
        return np.diff(self.offsets)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return [int(number) for number in np.unique(self.numbers)]

    def atoms(self, index: int) -> ase.Atoms:
        """Structure ``index`` without labels but for the charge and multiplicity it stated, with
        its info."""
        from ase import Atoms

        rows = slice(self.offsets[index], self.offsets[index + 1])
        cell = None if self.cell is None else self.cell[index]
        pbc = None if self.pbc is None else self.pbc[index]
        atoms = Atoms(self.numbers[rows], self.positions[rows], cell=cell, pbc=pbc)
        atoms.info |= self.info_of(index)
        for name in STATED:
            label = self.targets.get(name)
            if label is not None and label.per == "structure" and label.values.ndim == 1:
                atoms.info[name] = float(label.values[index])
        return atoms

    def info_of(self, index: int) -> dict[str, object]:
        """What is known of structure ``index`` besides: its id and its info."""
        identity = {} if self.ids is None else {"id": int(self.ids[index])}
        return identity | dict(self.info[index] if self.info else {})

    def elements_of(self, indices: np.ndarray) -> list[int]:
        """Atomic numbers that occur in some structures, ascending."""
        within = np.zeros(self.size, bool)
        within[indices] = True
        return [int(number) for number in np.unique(self.numbers[np.repeat(within, self.counts)])]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: structures, targets, units, references and splits; names and the
        like, which nothing is learnt from, do not count."""
        state = hashlib.sha256(self.kind.encode())
        for name, values, labels in sorted(_content(self), key=lambda item: item[0]):
            state.update(hdf5_file.digest(name, values, labels).encode())
        if self.density is not None:
            state.update(self.density.digests.tobytes())
        return state.hexdigest()


def length_unit(kind: str) -> str:
    """The unit of positions: Angstrom, but for charged particles, whose simulator has its own."""
    return "1" if kind == "nbody" else "Angstrom"


def _content(dataset: Dataset) -> list[tuple[str, np.ndarray, dict[str, str]]]:
    """Every array of a dataset, its type made canonical, under the name it has in the file."""
    items: list[tuple[str, np.ndarray, dict[str, str]]] = [
        ("/numbers", dataset.numbers.astype(np.int64), {}),
        ("/positions", dataset.positions.astype(np.float64), {"unit": length_unit(dataset.kind)}),
        ("/offsets", dataset.offsets.astype(np.int64), {}),
    ]
    if dataset.cell is not None and dataset.pbc is not None:
        items.append(("/cell", dataset.cell.astype(np.float64), {"unit": "Angstrom"}))
        items.append(("/pbc", dataset.pbc.astype(np.bool_), {}))
    if dataset.ids is not None:
        items.append(("/ids", dataset.ids.astype(np.int64), {}))
    for name, target in dataset.targets.items():
        label = {"unit": target.unit, "per": target.per}
        items.append((f"/targets/{name}", target.values.astype(np.float64), label))
    for name, energies in dataset.references.items():
        unit = dataset.targets[name].unit
        items.append((f"/references/{name}", _by_number(energies), {"unit": unit}))
    for name, split in sorted(dataset.splits.items()):
        for part in sorted(split):
            items.append((f"/splits/{name}/{part}", split[part].astype(np.int64), {}))
    return items


def _by_number(energies: dict[int, float]) -> np.ndarray:
    values = np.full(HIGHEST + 1, np.nan)
    for number, energy in energies.items():
        values[number] = energy
    return values


def from_atoms(
    frames: Sequence[ase.Atoms],
    kind: str,
    source: str,
    ids: Sequence[int] | None = None,
    targets: dict[str, Target] | None = None,
    splits: dict[str, dict[str, np.ndarray]] | None = None,
) -> Dataset:
    """A dataset of checked structures; cells are kept if any structure is periodic, charges and
    multiplicities if any structure has an unusual one, info if any structure has some."""
    counts = [len(atoms) for atoms in frames]
    periodic = any(atoms.pbc.any() for atoms in frames)
    info = [said.of(atoms) for atoms in frames]
    return Dataset(
        kind,
        numbers=np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64),
        positions=np.concatenate([atoms.positions for atoms in frames]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        cell=np.array([atoms.cell.array for atoms in frames]) if periodic else None,
        pbc=np.array([atoms.pbc for atoms in frames]) if periodic else None,
        targets=states(frames) | (targets or {}),
        splits=splits or {},
        source=source,
        ids=None if ids is None else np.asarray(ids, np.int64),
        info=info if any(info) else (),
    )


def states(frames: Sequence[ase.Atoms]) -> dict[str, Target]:
    """Charges and multiplicities, as labels, where any structure has an unusual one."""
    charges, spins = np.array([state(atoms) for atoms in frames], float).reshape(-1, 2).T
    usual = [lowest(electrons(a, int(q))) for a, q in zip(frames, charges, strict=True)]
    labels = {}
    if charges.any():
        labels["charge"] = Target(charges, "e")
    if (spins != usual).any():
        labels["multiplicity"] = Target(spins, "")
    return labels


def write(path: str | Path, dataset: Dataset, single: bool = False) -> None:
    """``save`` under the output lock; the file appears whole or not at all.

    Errors: those of ``save``, and UsageError, StorageError, TemporaryError as ``files.atomic``.
    """
    with atomic(path) as partial:
        save(partial, dataset, single)


def save(partial: Path, dataset: Dataset, single: bool = False) -> None:
    """Write a dataset to the path that ``files.atomic`` gave.

    ``single`` stores positions as float32: half the size, and each coordinate within 16 Angstrom
    of the origin is kept to 0.5e-6 Angstrom (checked: 1e-6). Errors: InputError if the arrays do
    not fit together.
    """
    validate(dataset, partial.name.removesuffix(".partial"))
    with hdf5_file.NewFile(partial) as new:
        put_dataset(new.file, dataset, single)
        hdf5_file.close_checksum(new.file, dataset.kind, {"source": dataset.source})


def put_dataset(file: h5py.File, dataset: Dataset, single: bool = False) -> None:
    """Store every array, as narrow as it goes without loss (positions: see ``save``)."""
    file.create_group("targets", track_order=True)  # they are shown in the order of their source
    for name, values, labels in _content(dataset):
        if name == "/numbers":
            values = values.astype(np.uint8)
        if name == "/positions" and single:
            values = _single(values)
        hdf5_file.put(file, name, values, **labels)
    if dataset.info:
        hdf5_file.put(file, "/info", said.lines(dataset.info))


def _single(positions: np.ndarray) -> np.ndarray:
    narrow = positions.astype(np.float32)
    error = float(np.abs(narrow - positions).max(initial=0.0))
    if error > 1e-6:
        raise InputError(f"positions lose {error:.1e} Angstrom as float32; store them as float64")
    return narrow


def read(path: str | Path) -> Dataset:
    """Read and verify a dataset; densities stay on disk until ``density.values(i)`` asks.

    Errors: InputError when the file is damaged, foreign, or does not fit together.
    """
    with hdf5_file.opened(path) as file:
        hdf5_file.verify_checksum(file)
        dataset = _get_dataset(file)
        validate(dataset, str(path))
    if dataset.kind != "density":
        return dataset
    return replace(dataset, density=Density.open(path, dataset.size))


def _get_dataset(file: h5py.File) -> Dataset:
    offsets = hdf5_file.get(file, "/offsets", "int64", (None,))
    size, atoms = len(offsets) - 1, file["/numbers"].shape[0]
    periodic = "cell" in file
    return Dataset(
        kind=str(file.attrs["kind"]),
        numbers=hdf5_file.get(file, "/numbers", "int64", (atoms,)),
        positions=hdf5_file.get(file, "/positions", "float64", (atoms, 3)),
        offsets=offsets,
        cell=hdf5_file.get(file, "/cell", "float64", (size, 3, 3)) if periodic else None,
        pbc=hdf5_file.get(file, "/pbc", "bool", (size, 3)) if periodic else None,
        targets={name: _get_target(file, name) for name in file.get("targets", ())},
        splits={name: _get_split(file, name) for name in file.get("splits", ())},
        references={name: _get_references(file, name) for name in file.get("references", ())},
        source=str(file.attrs["source"]),
        ids=hdf5_file.get(file, "/ids", "int64", (size,)) if "ids" in file else None,
        info=_get_info(file) if "info" in file else (),
    )


def _get_info(file: h5py.File) -> Sequence[said.Info]:
    return said.from_lines(hdf5_file.get(file, "/info", "uint8", (None,)))


def _get_target(file: h5py.File, name: str) -> Target:
    item = file[f"/targets/{name}"]
    values = hdf5_file.get(file, item.name, "float64", item.shape)
    return Target(values, str(item.attrs["unit"]), str(item.attrs["per"]))


def _get_split(file: h5py.File, name: str) -> dict[str, np.ndarray]:
    group = f"/splits/{name}"
    return {part: hdf5_file.get(file, f"{group}/{part}", "int64", (None,)) for part in file[group]}


def _get_references(file: h5py.File, name: str) -> dict[int, float]:
    values = hdf5_file.get(file, f"/references/{name}", "float64", (HIGHEST + 1,))
    return {int(number): float(values[number]) for number in np.flatnonzero(~np.isnan(values))}


def validate(dataset: Dataset, path: str) -> None:
    """InputError unless the arrays of a dataset fit together and hold what they claim."""
    atoms, offsets = len(dataset.numbers), dataset.offsets
    if dataset.kind not in KINDS:
        raise InputError(f"{path}: unknown kind '{dataset.kind}'; known are {', '.join(KINDS)}")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != atoms or (dataset.counts < 1).any():
        raise InputError(f"{path}: /offsets does not divide {atoms} atoms into structures")
    if dataset.numbers.min() < 1 or dataset.numbers.max() > HIGHEST:
        raise InputError(f"{path}: /numbers has atomic numbers that no element has")
    if dataset.positions.shape != (atoms, 3) or not np.isfinite(dataset.positions).all():
        raise InputError(f"{path}: /positions are not {atoms} finite positions")
    if (dataset.cell is None) != (dataset.pbc is None):
        raise InputError(f"{path}: /cell and /pbc come together or not at all")
    if len(dataset.info) not in (0, dataset.size):
        raise InputError(
            f"{path}: /info has {len(dataset.info)} lines for {dataset.size} structures"
        )
    for name, target in dataset.targets.items():
        _validate_target(dataset, name, target, path)
    for name in dataset.references:
        if name not in dataset.targets:
            raise InputError(f"{path}: reference energies for '{name}', which is no target")
    for name, split in dataset.splits.items():
        _validate_split(dataset.size, name, split, path)


def _validate_target(dataset: Dataset, name: str, target: Target, path: str) -> None:
    rows = {"structure": dataset.size, "atom": len(dataset.numbers)}.get(target.per)
    if not name or "/" in name or name in (".", ".."):
        raise InputError(f"{path}: '{name}' is no name for a target: it may not hold a slash")
    if rows is None or target.values.shape not in ((rows,), (rows, 3), (rows, 3, 3)):
        raise InputError(
            f"{path}: target '{name}' has shape {target.values.shape} for {rows} {target.per}s"
        )
    if not np.isfinite(target.values).all():
        raise InputError(f"{path}: target '{name}' has values that are not finite")


def _validate_split(size: int, name: str, split: dict[str, np.ndarray], path: str) -> None:
    used = np.concatenate([np.asarray(part) for part in split.values()] or [np.zeros(0, int)])
    if used.size and (used.min() < 0 or used.max() >= size):
        raise InputError(
            f"{path}: split '{name}' names structures beyond the {size} that are there"
        )
    if len(np.unique(used)) != len(used):
        raise InputError(f"{path}: split '{name}' names a structure twice")
