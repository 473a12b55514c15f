"""Structures enter here, checked once and fully: any format that ASE reads, SMILES, text on stdin,
or a dataset of our own.

Whatever is refused is an InputError that names the file, the line if there is one, and the reason.
"""

from __future__ import annotations

import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import InputError, StorageError, UsageError
from neupol_cli.io import hdf5, said, units
from neupol_cli.io.compressed import LENIENT, open_text
from neupol_cli.io.files import atomic
from neupol_cli.io.soundness import check
from neupol_cli.io.structure_formats import (
    comment,
    detection,
    ending,
    foreign,
    isolated,
    mdl,
    mol2,
    mopac,
    pdb,
    piped,
    smiles,
    smiles_lines,
    turbomole,
    xsf,
    xyz,
)
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Frame, Reader, Reading
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.hdf5 import Target

HDF5 = b"\x89HDF\r\n\x1a\n"  # what every HDF5 file begins with

Report = Callable[[InputError], None]


def _print(error: InputError) -> None:
    print(f"neupol: {error} (skipped)", file=sys.stderr)


def read(
    sources: Sequence[str | Path],
    on_error: str = "fail",
    stdin: TextIO | None = None,
    report: Report = _print,
    reading: Reading = AS_WRITTEN,
    doubts_told: bool = True,
) -> Iterator[tuple[str, Atoms]]:
    """Yield (label, checked structure) of every source in turn.

    A source is a file in any format of ASE, one that `neupol data` wrote, a SMILES, or ``-`` for
    (extended) xyz or SMILES on ``stdin`` (default: the process's). The label is the file's name, or
    the SMILES, made printable, or ``name#k`` with k from 0 where there are several. ``on_error``:
    ``fail`` raises the first InputError, ``skip`` hands it to ``report`` and goes on. ``reading``:
    what the user says of the files. ``doubts_told``: whether what a source leaves open is said
    here, on stderr; else it is in the structure's info under ``said.DOUBTS``, for who says it.
    Conformers, where ``reading`` asks for them, are there under ``said.CONFORMERS``.

    Raises:
        UsageError: conformers of a source that is no SMILES, whatever ``on_error``.
    """
    noted: set[str] = set()
    provenance.inputs(*sources)
    for source in sources:
        name = printable(str(source))
        for index, (frame, several) in enumerate(_lookahead(_frames(source, stdin, reading))):
            label = f"{name}#{index}" if several else name
            _note(frame.note, noted)
            error = frame.error or _refusal(frame, name if frame.line else label, reading)
            if error is None and frame.atoms is not None:
                _keep_conformers(frame, name, reading)
                _doubt(frame.atoms, label, frame.doubts, doubts_told)
                yield label, frame.atoms
            elif error is not None and on_error == "skip":
                report(error)
            elif error is not None:
                raise error


def short(label: str) -> str:
    """A label without folders; a SMILES has none, its slashes are bonds."""
    return label if smiles.looks_like(label) else Path(label).name


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


def _note(note: str, noted: set[str]) -> None:
    """Says something of how files are read, once."""
    if note and note not in noted:
        noted.add(note)
        print(f"neupol: {note}", file=sys.stderr)


def _keep_conformers(frame: Frame, name: str, reading: Reading) -> None:
    """Puts them into the structure's info where they are asked for."""
    if reading.conformers is None or frame.atoms is None:
        return
    if frame.conformers is None:
        raise UsageError(
            f"{name}: has geometries of its own; --conformers makes those of SMILES, leave it out"
        )
    frame.atoms.info[said.CONFORMERS] = frame.conformers


def _doubt(atoms: Atoms, label: str, doubts: tuple[str, ...], told: bool) -> None:
    """Says what a structure's source leaves open, or keeps it for who will."""
    if doubts and told:
        print(f"neupol: {label}: doubtful: {'; '.join(doubts)}", file=sys.stderr)
    elif doubts:
        atoms.info[said.DOUBTS] = doubts


def _frames(source: str | Path, stdin: TextIO | None, reading: Reading) -> Iterator[Frame]:
    """The frames of a source; what cannot be opened is one frame with an error.

    A word is a file's name if there is such a file, and else a SMILES if it looks like one.
    """
    if str(source) == "-":
        found = _stdin(stdin, reading)
    elif isinstance(source, str) and smiles.looks_like(source) and not os.path.lexists(source):
        found = iter([smiles_lines.one(source, reading)])
    else:
        found = _open(Path(source), reading)
    try:
        yield from found
    except InputError as error:
        yield Frame(None, error=error)
    except FileNotFoundError:
        yield Frame(None, error=InputError(f"{source}: no such file, and no SMILES"))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield Frame(None, error=_broken(source, error))


def _stdin(stdin: TextIO | None, reading: Reading) -> Iterator[Frame]:
    if stdin is None:
        sys.stdin.reconfigure(encoding="utf-8", errors=LENIENT)  # type: ignore[union-attr]
    return piped.frames(stdin or sys.stdin, "-", reading)


def _broken(path: str | Path, error: Exception) -> InputError:
    """The disk's trouble is raised as such; a damaged compressed file is bad input."""
    if isinstance(error, OSError) and error.errno:
        raise StorageError(f"{path}: {error.strerror}") from error
    return InputError(f"{path}: the compressed file is not whole ({error})")


def _open(path: Path, reading: Reading) -> Iterator[Frame]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the files in it")
    if path.is_fifo() or path.is_char_device():  # such as <(command) of a shell
        with path.open(encoding="utf-8-sig", errors=LENIENT) as stream:
            yield from piped.frames(stream, str(path), reading)
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
    "smiles": smiles_lines.frames,
    "smiles-table": smiles_lines.table,
}


def write(
    path: str | Path, frames: Sequence[Atoms], results: Sequence[Mapping[str, Target]]
) -> None:
    """Write extended xyz, atomically: each result under ``NAME_UNIT``, to be read with its unit.

    ``results[i]`` maps names to ``hdf5.Target(values, unit, per)`` of ``frames[i]``: one value a
    structure goes into the comment (``U0_eV=...``), rows of an atom into columns
    (``forces_eV_per_Angstrom``). Earlier info and columns stay. The first frame says where the file
    comes from. Errors as ``files.atomic``.
    """
    from ase.io import write as ase_write

    images = [annotated(atoms, labels) for atoms, labels in zip(frames, results, strict=True)]
    for image in images:  # which may come from an output of ours
        image.info.pop(provenance.KEY, None)
    images[0].info |= provenance.commented()
    with atomic(path) as partial:
        ase_write(partial, images, format="extxyz", write_results=False)


def annotated(atoms: Atoms, results: Mapping[str, Target]) -> Atoms:
    """A copy with results as :func:`write` names them."""
    image = atoms.copy()
    image.info.pop(said.DOUBTS, None)
    for name, target in results.items():
        key = f"{name}_{units.suffix(target.unit)}"
        if target.per == "atom":
            image.arrays[key] = np.asarray(target.values)
        else:
            values = np.asarray(target.values)
            image.info[key] = float(values) if values.ndim == 0 else values
    image.info = comment.writable(image.info)
    return image
