"""Structures enter here, checked once and fully: any format that ASE reads, xyz text on stdin, or
a dataset of our own.

Whatever is refused is an InputError that names the file, the line if there is one, and the reason.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from neupol_cli.errors import InputError, StorageError
from neupol_cli.io import hdf5, units
from neupol_cli.io.compressed import LENIENT, open_text
from neupol_cli.io.files import atomic
from neupol_cli.io.structure_formats import (
    detection,
    ending,
    foreign,
    isolated,
    mdl,
    mol2,
    mopac,
    pdb,
    turbomole,
    xsf,
    xyz,
)
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Frame, Reader, Reading
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.hdf5 import Target

CLOSEST = 0.1  # Angstrom; two nuclei nearer than this are one by mistake
THINNEST = 0.3  # Angstrom; the least height of a cell, a fifth of any crystal's
FARTHEST = 1e6  # Angstrom
HDF5 = b"\x89HDF\r\n\x1a\n"  # what every HDF5 file begins with
FEW = 64  # points; up to here all distances at once are faster than a tree

Report = Callable[[InputError], None]


def _print(error: InputError) -> None:
    print(f"neupol: {error} (skipped)", file=sys.stderr)


def read(
    sources: Sequence[str | Path],
    on_error: str = "fail",
    stdin: TextIO | None = None,
    report: Report = _print,
    reading: Reading = AS_WRITTEN,
) -> Iterator[tuple[str, Atoms]]:
    """Yield (label, checked structure) of every source in turn.

    A source is a file in any format of ASE, one that `neupol data` wrote, or ``-`` for (extended)
    xyz on ``stdin`` (default: the process's). The label is the file's name, made printable, or
    ``name#k`` with k from 0 where it holds several. ``on_error``: ``fail`` raises the first
    InputError, ``skip`` hands it to ``report`` and goes on. ``reading``: what the user says of the
    files.
    """
    for source in sources:
        name = printable(str(source))
        frames = _stdin(stdin) if str(source) == "-" else _file(Path(source), reading)
        for index, (frame, several) in enumerate(_lookahead(frames)):
            label = f"{name}#{index}" if several else name
            if frame.note:
                print(f"neupol: {frame.note}", file=sys.stderr)
            error = frame.error or _refusal(frame, name if frame.line else label, reading)
            if error is None and frame.atoms is not None:
                yield label, frame.atoms
            elif error is not None and on_error == "skip":
                report(error)
            elif error is not None:
                raise error


def accepted(
    structures: Iterable[tuple[str, Atoms]],
    refusal: Callable[[str, Atoms], InputError | None],
    on_error: str,
    report: Report = _print,
) -> Iterator[tuple[str, Atoms]]:
    """The structures that somebody who wants more of them has no ``refusal`` for.

    ``on_error`` and ``report``: as in :func:`read`.
    """
    for label, atoms in structures:
        error = refusal(label, atoms)
        if error is None:
            yield label, atoms
        elif on_error == "skip":
            report(error)
        else:
            raise error


def _lookahead(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame, and whether it is one of several."""
    before = next(frames, None)
    several = False
    for frame in frames:
        several = True
        if before is not None:
            yield before, several
        before = frame
    if before is not None:
        yield before, several


def _refusal(frame: Frame, place: str, reading: Reading) -> InputError | None:
    try:
        assert frame.atoms is not None  # there is no error
        check(frame.atoms, place, frame.line)
        if reading.pbc is False:
            isolated.make_molecule(frame.atoms, place)
    except InputError as error:
        return error
    return None


def _stdin(stdin: TextIO | None) -> Iterator[Frame]:
    if stdin is None:
        sys.stdin.reconfigure(encoding="utf-8", errors=LENIENT)  # type: ignore[union-attr]
    return xyz.frames(stdin or sys.stdin, "-")


def _file(path: Path, reading: Reading) -> Iterator[Frame]:
    """The frames of a file; what cannot be opened is one frame with an error."""
    try:
        yield from _open(path, reading)
    except InputError as error:
        yield Frame(None, error=error)
    except FileNotFoundError:
        yield Frame(None, error=InputError(f"{path}: no such file"))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield Frame(None, error=_broken(path, error))


def _broken(path: Path, error: Exception) -> InputError:
    """The disk's trouble is raised as such; a damaged compressed file is bad input."""
    if isinstance(error, OSError) and error.errno:
        raise StorageError(f"{path}: {error.strerror}") from error
    return InputError(f"{path}: the compressed file is not whole ({error})")


def _open(path: Path, reading: Reading) -> Iterator[Frame]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the files in it")
    if path.is_fifo() or path.is_char_device():  # such as <(command) of a shell
        with path.open(encoding="utf-8-sig", errors=LENIENT) as stream:
            yield from xyz.frames(stream, str(path))
        return
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; a structure was expected")
    if is_dataset(path):
        yield from _stored(path)
        return
    kind = detection.kind_of(path)
    reader = READERS.get(kind)
    if kind == "cube":
        yield _cube(path, reading)
    elif reader is None:
        ending.check(path, kind)
        yield from foreign.frames(path, kind, reading)
    else:
        with open_text(path) as stream:
            yield from reader(stream, str(path), reading)


def _cube(path: Path, reading: Reading) -> Frame:
    """The atoms of a cube, periodic or not as every command takes it."""
    from neupol_cli.io.volumetric import cube, guesses

    volume = cube.FORMAT.read(path, reading.pbc)
    return Frame(volume.atoms, note=guesses.note(str(path), volume))


def is_dataset(path: Path) -> bool:
    """Whether a file is HDF5, the format that neupol keeps its own datasets in."""
    with path.open("rb") as stream:
        return stream.read(len(HDF5)) == HDF5


def _stored(path: Path) -> Iterator[Frame]:
    """The structures of a dataset, without their labels."""
    dataset = hdf5.read(path)
    if dataset.kind == "nbody":
        raise InputError(f"{path}: holds charged particles, not structures")
    for index in range(dataset.size):
        yield Frame(dataset.atoms(index))


READERS: dict[str, Reader] = {
    "xyz": xyz.frames,
    "extxyz": xyz.frames,
    "vasp": foreign.poscar,
    "sdf": mdl.frames,
    "mol": mdl.frames,
    "mol2": mol2.frames,
    "proteindatabank": pdb.frames,
    "turbomole": turbomole.frames,
    "gromacs": foreign.gromacs,
    "xsf": xsf.frames,
    "mopac": mopac.frames,
}


def check(atoms: Atoms, label: str, line: int = 0) -> None:
    """Refuse a structure that no model can answer for; cost is O(N).

    ``line`` is that of the first atom, where atoms stand on consecutive lines. InputError: no
    atoms, a coordinate that is not finite, no real element, a degenerate cell, two atoms on one
    spot (nearer than 0.1 Angstrom, periodic images included).
    """
    where = _Places(label, line)
    if len(atoms) == 0:
        raise InputError(f"{label}: has no atoms")
    positions = atoms.positions
    bad = ~(np.abs(positions) < FARTHEST).all(axis=1)  # also true for NaN
    if bad.any():
        index = int(bad.argmax())
        raise InputError(f"{where(index)}: atom {index + 1} is not at a finite place")
    unknown = (atoms.numbers < 1) | (atoms.numbers > 118)
    if unknown.any():
        index = int(unknown.argmax())
        raise InputError(
            f"{where(index)}: atom {index + 1} has atomic number {atoms.numbers[index]}"
        )
    periodic = np.asarray(atoms.cell.array)[atoms.pbc]  # (k,3)
    _check_cell(periodic, label)
    pair = _close_pair(positions, periodic)
    if pair is not None:
        first, second = sorted(pair)
        raise InputError(
            f"{where(second)}: atoms {first + 1} and {second + 1} are on one spot "
            f"(nearer than {CLOSEST} Angstrom, periodic images included)"
        )


class _Places:
    """``file:line`` of an atom where its line is known, else the label."""

    def __init__(self, label: str, line: int) -> None:
        self.label, self.line = label, line

    def __call__(self, index: int) -> str:
        return f"{self.label}:{self.line + index}" if self.line else self.label


def _check_cell(vectors: np.ndarray, label: str) -> None:
    """Refuse periodic vectors (k,3) that are not finite, dependent, or leave no room."""
    if not len(vectors):
        return
    if not (np.abs(vectors) < FARTHEST).all():
        raise InputError(f"{label}: the cell is not finite, or longer than {FARTHEST:g} Angstrom")
    heights = _heights(vectors)
    if not heights.min() >= THINNEST:
        raise InputError(
            f"{label}: the cell is degenerate: {heights.min():.3g} Angstrom high along a periodic "
            f"direction (at least {THINNEST} is needed)"
        )


def _heights(vectors: np.ndarray) -> np.ndarray:
    """(k,) distance between opposite faces along each of k periodic vectors (k,3); 0 if flat."""
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.min() == 0.0 or np.linalg.matrix_rank(vectors / lengths[:, None]) < len(vectors):
        return np.zeros(len(vectors))
    return np.asarray(1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0))


def _close_pair(positions: np.ndarray, periodic: np.ndarray) -> tuple[int, int] | None:
    """Indices of two atoms nearer than CLOSEST, if there are any."""
    points, atom_index = _with_images(positions, periodic)
    if len(points) <= FEW:
        squared = np.square(points[:, None] - points).sum(axis=-1)  # (P,P)
        np.fill_diagonal(squared, np.inf)
        row, column = divmod(int(squared.argmin()), len(points))
        close = squared[row, column] < CLOSEST**2
        return (int(atom_index[row]), int(atom_index[column])) if close else None
    # Two points in one small box are close for certain; afterwards no box is crowded, so that the
    # tree below stays linear even for 100,000 atoms in one place.
    boxes = np.floor(points / (CLOSEST / 2)).astype(np.int64)
    _, first, count = np.unique(boxes, axis=0, return_index=True, return_counts=True)
    crowded = np.flatnonzero(count > 1)
    if crowded.size:
        same = np.flatnonzero((boxes == boxes[first[crowded[0]]]).all(axis=1))
        return int(atom_index[same[0]]), int(atom_index[same[1]])
    from scipy.spatial import cKDTree

    distances, nearest = cKDTree(points).query(points, k=2, distance_upper_bound=CLOSEST)
    close = np.flatnonzero(np.isfinite(distances[:, 1]))
    if not close.size:
        return None
    return int(atom_index[close[0]]), int(atom_index[nearest[close[0], 1]])


def _with_images(positions: np.ndarray, periodic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms wrapped into the cell with images just outside its faces (P,3), and owners (P,)."""
    atom_index = np.arange(len(positions))
    if not len(periodic):
        return positions, atom_index
    inverse = np.linalg.pinv(periodic)  # (3,k)
    points = positions - np.floor(positions @ inverse) @ periodic
    margins = CLOSEST / _heights(periodic)  # (k,)
    # An atom next to a face has an image next to the opposite one; edges and corners follow,
    # because images made along one axis are there when the next axis comes.
    for axis, vector in enumerate(periodic):
        fraction = points @ inverse[:, axis]
        low, high = fraction < margins[axis], fraction > 1.0 - margins[axis]
        points = np.concatenate([points, points[low] + vector, points[high] - vector])
        atom_index = np.concatenate([atom_index, atom_index[low], atom_index[high]])
    return points, atom_index


def write(
    path: str | Path, frames: Sequence[Atoms], results: Sequence[Mapping[str, Target]]
) -> None:
    """Write extended xyz, atomically: each result under ``NAME_UNIT``, to be read with its unit.

    ``results[i]`` maps names to ``hdf5.Target(values, unit, per)`` of ``frames[i]``: one value a
    structure goes into the comment (``U0_eV=...``), rows of an atom into columns
    (``forces_eV_per_Angstrom``). Earlier info and columns stay. Errors as ``files.atomic``.
    """
    from ase.io import write as ase_write

    images = [_annotated(atoms, labels) for atoms, labels in zip(frames, results, strict=True)]
    with atomic(path) as partial:
        ase_write(partial, images, format="extxyz", write_results=False)


def _annotated(atoms: Atoms, results: Mapping[str, Target]) -> Atoms:
    image = atoms.copy()
    for name, target in results.items():
        key = f"{name}_{units.suffix(target.unit)}"
        if target.per == "atom":
            image.arrays[key] = np.asarray(target.values)
        else:
            values = np.asarray(target.values)
            image.info[key] = float(values) if values.ndim == 0 else values
    return image
