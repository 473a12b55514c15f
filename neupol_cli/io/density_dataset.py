"""Electron densities in HDF5, larger than memory: read one structure at a time.

/density/values  [P] or [P,2]   e/Angstrom^3, float32; with spin: total and up minus down
/density/offsets [N+1]          the points of structure i are rows offsets[i]:offsets[i+1]
/density/shape   [N,3]          grid points along each axis, the last axis fastest
/density/origin  [N,3]          Angstrom, the position of the first point
/density/step    [N,3,3]        Angstrom, row a is the step along axis a
/density/digests [N,32]         SHA-256 of the values of each structure

`density_writer.py` writes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.io import hdf5_file

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class Density:
    """The grids of N structures; the values stay on disk."""

    offsets: np.ndarray  # (N+1,) int64
    shape: np.ndarray  # (N,3) int64
    origin: np.ndarray  # (N,3) float64 Angstrom
    step: np.ndarray  # (N,3,3) float64 Angstrom
    digests: np.ndarray  # (N,32) uint8
    file: h5py.File = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, size: int) -> Density:
        """Open the densities of a file of ``size`` structures; InputError if they do not fit."""
        file = hdf5_file.open_file(path)
        with hdf5_file.readable(path):
            density = cls(
                hdf5_file.get(file, "/density/offsets", "int64", (size + 1,)),
                hdf5_file.get(file, "/density/shape", "int64", (size, 3)),
                hdf5_file.get(file, "/density/origin", "float64", (size, 3)),
                hdf5_file.get(file, "/density/step", "float64", (size, 3, 3)),
                hdf5_file.get(file, "/density/digests", "uint8", (size, 32)),
                file,
            )
            density._validate(path)
        return density

    def _validate(self, path: str | Path) -> None:
        points = self.shape.prod(axis=1)
        rows = self.file["/density/values"].shape[0]
        fits = self.offsets[0] == 0 and self.offsets[-1] == rows and (self.shape > 0).all()
        if not fits or (np.diff(self.offsets) != points).any():
            raise InputError(f"{path}: /density/offsets and /density/shape do not agree")

    @property
    def spin(self) -> bool:
        """Whether there is a second channel, up minus down."""
        return bool(self.file["/density/values"].ndim == 2)

    def values(self, index: int) -> np.ndarray:
        """(P,) or (P,2) float32 e/Angstrom^3 of one structure, verified; the last axis fastest."""
        begin, end = int(self.offsets[index]), int(self.offsets[index + 1])
        with hdf5_file.readable(self.file.filename):
            values: np.ndarray = self.file["/density/values"][begin:end]
        if hashlib.sha256(values.data).digest() != self.digests[index].tobytes():
            raise InputError(f"{self.file.filename}: the density of structure {index} is damaged")
        return values

    def points(self, index: int, rows: np.ndarray) -> np.ndarray:
        """(M,3) float64 Angstrom: where the given rows (M,) of ``values(index)`` lie."""
        steps = np.stack(np.unravel_index(rows, tuple(self.shape[index])), axis=-1)  # (M,3)
        return np.asarray(self.origin[index] + steps @ self.step[index])

    def close(self) -> None:
        """Close the file; values cannot be read afterwards."""
        self.file.close()
