"""Electron densities into HDF5 (`density_dataset.py`), larger than memory: one after the other."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.io import hdf5_file
from neupol_cli.io.files import atomic
from neupol_cli.io.hdf5 import Target, from_atoms, put_dataset, validate

if TYPE_CHECKING:
    import ase

CHUNK = 32_768  # points: 128 KB as float32


class DensityWriter:
    """Write a density file one structure at a time: ``with DensityWriter(path) as w: w.add(...)``.

    Memory holds one structure's grid, whatever the size of the file. Leaving the block by an
    exception leaves no file.
    """

    def __init__(self, path: str | Path, source: str = "", spin: bool = False) -> None:
        self.path, self.source, self.spin = path, source, spin
        self._stack = ExitStack()
        self._atoms: list[ase.Atoms] = []
        self._grids: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._digests: list[bytes] = []
        self._ids: list[int] = []
        self._splits: dict[str, dict[str, np.ndarray]] = {}
        self._targets: dict[str, Target] = {}
        self._references: dict[str, dict[int, float]] = {}

    def __enter__(self) -> Self:
        partial = self._stack.enter_context(atomic(self.path))
        self._new = self._stack.enter_context(hdf5_file.NewFile(partial))
        self._file = self._new.file
        tail = (2,) if self.spin else ()
        self._values = self._file.create_dataset(
            "/density/values", (0, *tail), "float32", maxshape=(None, *tail),
            chunks=(CHUNK, *tail), compression="gzip", compression_opts=1, shuffle=True,
        )  # fmt: skip
        self._values.attrs["unit"] = "e/Angstrom^3"
        return self

    def add(
        self,
        atoms: ase.Atoms,
        values: np.ndarray,
        origin: np.ndarray,
        step: np.ndarray,
        identity: int | None = None,
    ) -> None:
        """Append one structure.

        ``values`` (X,Y,Z) or (X,Y,Z,2) e/Angstrom^3; ``origin`` (3,) and ``step`` (3,3) Angstrom.
        InputError when values are not finite or the channels are not those of the file; OSError
        when the disk is full, which leaving the block turns into StorageError.
        """
        tail = (2,) if self.spin else ()
        shape = values.shape[:3]
        if values.shape != (*shape, *tail) or len(shape) != 3:
            raise InputError(
                f"{self.path}: a grid of shape {values.shape} does not fit in this file"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: the density has values that are not finite")
        flat = np.ascontiguousarray(values.reshape(-1, *tail), dtype=np.float32)
        begin = self._values.shape[0]
        self._values.resize(begin + len(flat), axis=0)
        self._values[begin:] = flat
        self._new.check()
        self._atoms.append(atoms)
        self._grids.append((np.array(shape), np.asarray(origin), np.asarray(step)))
        self._digests.append(hashlib.sha256(flat.data).digest())
        self._ids.append(len(self._ids) if identity is None else identity)

    def split(self, name: str, parts_of: dict[str, np.ndarray]) -> None:
        """Add a split: ``{"train": indices, "valid": ..., "test": ...}``."""
        self._splits[name] = parts_of

    def label(
        self, targets: dict[str, Target], references: dict[str, dict[int, float]] | None = None
    ) -> None:
        """Add values a structure (electrons, energy, dipole) and what free atoms have of them."""
        self._targets, self._references = targets, references or {}

    def _finish(self) -> None:
        if not self._atoms:
            raise InputError(f"{self.path}: no density was added")
        dataset = from_atoms(
            self._atoms, "density", self.source, self._ids, self._targets, self._splits
        )
        dataset = replace(dataset, references=self._references)
        validate(dataset, str(self.path))
        put_dataset(self._file, dataset)
        shape, origin, step = (np.array(column) for column in zip(*self._grids, strict=True))
        offsets = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32)
        hdf5_file.put(self._file, "/density/offsets", offsets)
        hdf5_file.put(self._file, "/density/shape", shape)
        hdf5_file.put(self._file, "/density/origin", origin, unit="Angstrom")
        hdf5_file.put(self._file, "/density/step", step, unit="Angstrom")
        hdf5_file.put(self._file, "/density/digests", digests)
        hdf5_file.close_checksum(self._file, "density", {"source": self.source})

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool | None:
        if kind is not None:
            return self._stack.__exit__(kind, *rest)  # type: ignore[arg-type]
        with self._stack:
            self._finish()
        return None
