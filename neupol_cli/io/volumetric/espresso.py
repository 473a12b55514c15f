"""Quantum ESPRESSO's ``charge-density.dat``, which pw.x begins from with ``startingpot = 'file'``.

    rho(G) = 1/N sum_r rho(r) exp(-i G r)        electrons/bohr^3

Fortran's unformatted records: whether one of G and -G stands for both, counts; the reciprocal
vectors in 1/bohr; Miller indices; rho(G); with spin up minus down the same way. There are no atoms
in it, so that it is only written. pw.x does not look at the indices: the order has to be its own,
by length and, where that is the same, by index. A file of all G is read by runs of any k-points.
"""

from __future__ import annotations

import struct
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neupol_cli import provenance
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import Grid, Volume

NAME = "charge-density.dat"
SAME = 1e-8  # of |G|^2 in units of the first reciprocal vector's; pw.x takes less for equal
LONGEST = 2**31 - 9  # bytes of a record between marks of 4 bytes
LONGEST_TITLE = 1_000_000


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """All plane waves in the largest sphere that the grid holds. The title and where the density
    comes from follow in a last record, which pw.x does not come to."""
    millers = plane_waves(volume.grid)
    channels = [volume.values] if volume.spin is None else [volume.values, volume.spin]
    _put(stream, struct.pack("<3i", 0, len(millers), len(channels)))
    _put(stream, _reciprocal(volume.grid).astype("<f8").tobytes())
    _put(stream, millers.astype("<i4").tobytes())
    for channel in channels:
        _put(stream, _coefficients(channel, millers).astype("<c16").tobytes())
    _put(stream, " ".join([*title.split(), *provenance.marked()]).encode())


def _put(stream: BinaryIO, record: bytes) -> None:
    mark = struct.pack("<i", len(record))
    stream.write(mark + record + mark)


def title_of(path: Path) -> str:
    """The last record, where a file has one of text; else nothing.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, SEEK_END)
        stream.seek(max(0, size - 4))
        length = int.from_bytes(stream.read(), "little")
        if length > min(size - 8, LONGEST_TITLE):
            return ""
        stream.seek(size - 4 - length)
        content = stream.read(length)
    try:
        return content.decode()
    except UnicodeDecodeError:  # it ends with the density
        return ""


def _reciprocal(grid: Grid) -> np.ndarray:
    """Reciprocal vectors as rows, (3, 3) 1/bohr."""
    return np.asarray(2 * np.pi * np.linalg.inv(grid.box / BOHR).T)


def largest(grid: Grid) -> float:
    """The radius of the largest sphere of plane waves that a grid tells apart, 1/bohr."""
    edges = np.linalg.norm(grid.box, axis=1) / BOHR
    return float((2 * np.pi * ((np.array(grid.shape) + 1) // 2) / edges).min())


def plane_waves(grid: Grid) -> np.ndarray:
    """Miller indices (M, 3) in pw.x's order."""
    ranges = [np.arange(-((n - 1) // 2), (n + 1) // 2) for n in grid.shape]
    millers = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    reciprocal = _reciprocal(grid)
    squared = ((millers @ reciprocal) ** 2).sum(axis=1)
    inside = squared < largest(grid) ** 2 * (1 - SAME)
    millers, squared = millers[inside], squared[inside]
    by_length = squared.argsort(kind="stable")
    steps = np.diff(squared[by_length], prepend=0.0) > SAME * (reciprocal[0] ** 2).sum()
    shells = np.empty(len(squared), int)
    shells[by_length] = np.cumsum(steps)
    return np.asarray(millers[shells.argsort(kind="stable")])


def _coefficients(values: np.ndarray, millers: np.ndarray) -> np.ndarray:
    """rho(G), (M,) complex e/bohr^3."""
    waves = np.fft.fftn(np.asarray(values, np.float64), norm="forward")
    return np.asarray(waves[tuple(millers.T)] * BOHR**3)


def _refusal(volume: Volume) -> str | None:
    grid, atoms = volume.grid, volume.atoms
    if not atoms.pbc.all():
        return "pw.x knows atoms in a cell; give them one (extended xyz, POSCAR), or write .cube"
    if abs(grid.box - atoms.cell.array).max() > 1e-4 or abs(grid.origin).max() > 1e-4:
        return "the grid does not fill the cell from its corner, as it must; take --grid"
    if 16 * grid.size > LONGEST:
        return f"holds grids of up to {LONGEST // 16:,} points; take a coarser one"
    return None


def _how_to_start(volume: Volume) -> str:
    return (
        f"plane waves up to ecutrho = {largest(volume.grid) ** 2:.1f} Ry (a finer --spacing has "
        "more); pw.x takes it from OUTDIR/PREFIX.save with startingpot = 'file', best with "
        "diago_thr_init = 1e-4, diago_david_ndim = 4"
    )


FORMAT = VolumetricFormat(
    name=NAME,
    matches=lambda base: base.endswith(NAME),
    write_stream=write,
    gzipped=False,
    holds_spin=True,
    densities_only=True,
    refusal=_refusal,
    note=_how_to_start,
)
