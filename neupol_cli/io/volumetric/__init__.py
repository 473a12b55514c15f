"""Densities in files: one module a format, units converted where the file is read or written."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from neupol_cli.errors import UsageError
from neupol_cli.io.files import atomic
from neupol_cli.io.volumetric import chgcar, cube, h5, xsf
from neupol_cli.io.volumetric.grid import DENSITY, Grid, Volume, by_counts, by_spacing
from neupol_cli.io.volumetric.text import Lines, open_text

__all__ = ["DENSITY", "Grid", "Volume", "by_counts", "by_spacing", "format_of", "read", "write"]

Reader = Callable[[Lines], Volume]
Writer = Callable[[BinaryIO, Volume, str], None]

READERS: dict[str, Reader] = {"cube": cube.read, "chgcar": chgcar.read}
WRITERS: dict[str, Writer] = {"cube": cube.write, "chgcar": chgcar.write, "xsf": xsf.write}
SUFFIXES = {".cube": "cube", ".cub": "cube", ".xsf": "xsf", ".h5": "hdf5", ".hdf5": "hdf5"}
STRUCTURES = (".xyz", ".extxyz", ".cif", ".poscar", ".vasp", ".traj", ".pdb", ".mol", ".sdf")
VASP_NAMES = ("CHGCAR", "CHG", "AECCAR", "PARCHG")


def format_of(name: str) -> str:
    """``cube``, ``chgcar``, ``xsf`` or ``hdf5``, told by a file's name; ``.gz`` is looked through.

    Raises UsageError for a name that tells nothing.
    """
    base = Path(name).name.removesuffix(".gz")
    kind = SUFFIXES.get(Path(base).suffix.lower())
    if kind == "hdf5" and base != Path(name).name:
        raise UsageError(f"{name}: HDF5 is not packed once more; leave out .gz")
    if kind is None and is_vasp(base):
        kind = "chgcar"
    if kind is None:
        raise UsageError(f"{name}: the name must end in .cube, .xsf or .h5, or be a CHGCAR")
    return kind


def is_vasp(base: str) -> bool:
    """Whether VASP would give its density this name: CHGCAR, AECCAR0, Si.CHGCAR, CHG_2 ...; a
    name that ends as a structure's, CHG.xyz, is one."""
    if Path(base).suffix.lower() in STRUCTURES:
        return False
    parts = base.upper().replace("_", ".").replace("-", ".").split(".")
    return any(part.rstrip("0123456789") in VASP_NAMES for part in parts)


def read(path: str | Path) -> Volume:
    """The density in a cube or CHGCAR file (or gzip of one).

    Raises UsageError for another kind of file, StorageError when it cannot be read, InputError
    (file:line) when it is not exactly what its format says.
    """
    kind = format_of(str(path))
    if kind == "hdf5":
        return h5.read(Path(path))
    if kind not in READERS:
        raise UsageError(f"{path}: {kind} files can be written, not read; give a cube or a CHGCAR")
    stream, size = open_text(Path(path))
    with stream:
        return read_stream(stream, kind, str(path), size)


def read_stream(stream: BinaryIO, kind: str, name: str, size: int | None = None) -> Volume:
    """The density in an open file of `kind`; `name` is for messages, `size` its bytes if known."""
    return READERS[kind](Lines(stream, name, size))


def write(path: str | Path, volume: Volume, title: str) -> None:
    """Write the total density (CHGCAR, XSF and HDF5: spin too) in the format that the name says.

    Raises UsageError for an unknown name or a grid that the format cannot hold, StorageError when
    the disk is full. An earlier file stays whole until the new one is complete.
    """
    kind = format_of(str(path))
    if volume.unit != DENSITY and kind in ("chgcar", "hdf5"):
        raise UsageError(
            f"{path}: holds densities only; write values in {volume.unit} as .cube or .xsf"
        )
    if kind == "chgcar":
        _check_cell(volume, str(path))
    if kind == "hdf5":
        h5.write(Path(path), [volume], title)
        return
    with atomic(path) as partial, partial.open("wb") as plain:
        if not str(path).endswith(".gz"):
            WRITERS[kind](plain, volume, title)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=plain) as packed:
            WRITERS[kind](cast(BinaryIO, packed), volume, title)


def _check_cell(volume: Volume, name: str) -> None:
    """VASP's grid fills the cell: a grid that does not would be another crystal."""
    if volume.atoms.pbc.all() and np.abs(volume.grid.box - volume.atoms.cell.array).max() > 1e-4:
        raise UsageError(f"{name}: the grid does not fill the cell, as VASP's must; write a cube")
