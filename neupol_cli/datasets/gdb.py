"""QM9 as it was published: ``dsgdb9nsd_000001.xyz`` to ``_133885.xyz``, in a folder or an archive.

A file holds the number of atoms; ``gdb``, the index and fifteen properties; rows of element, x, y,
z (Angstrom) and Mulliken charge; frequencies; SMILES; InChI. Small numbers are written ``1.2*^-6``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neupol_cli import provenance
from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats.numerals import number, plain

ARCHIVE = "dsgdb9nsd.xyz.tar.bz2"
PATTERN = "dsgdb9nsd_*.xyz"
LONGEST = 100_000  # bytes; the largest file of the set has 3,500
ELEMENTS = ("H", "C", "N", "O", "F")
HEADING = 9  # lines above the list of uncharacterised molecules


@dataclass(frozen=True)
class Molecule:
    """One file, its numbers checked but still text: converting all at once is much faster."""

    index: int  # from 1
    symbols: list[str]
    positions: list[str]  # x y z x y z ...
    properties: list[str]  # mu alpha homo lumo gap r2 zpve U0 U H G Cv, as published


def molecules(source: Path) -> Iterator[Molecule]:
    """Every molecule of a folder (files or archive) or an archive, in the order of the set."""
    with _reported(source):
        for name, text in _texts(source):
            yield _molecule(text, name)


@contextmanager
def _reported(source: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or source}: no such file") from error
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: the archive is not whole ({error})") from error


def _texts(source: Path) -> Iterator[tuple[str, str]]:
    if source.is_dir() and not (source / ARCHIVE).exists():
        paths = sorted(source.glob(PATTERN))
        if not paths:
            raise InputError(f"{source}: holds neither {ARCHIVE} nor {PATTERN}")
        provenance.inputs(*paths)
        for path in paths:
            yield str(path), path.read_text()
        return
    archive = source / ARCHIVE if source.is_dir() else source
    provenance.inputs(archive)
    # A stream, because seeking in bzip2 means reading it again from its start.
    with tarfile.open(archive, "r|*") as files:
        for member in files:
            if not member.isfile() or not member.name.endswith(".xyz"):
                continue
            stream = files.extractfile(member)
            if stream is None or member.size > LONGEST:
                raise InputError(f"{archive}: {member.name} is no molecule of QM9")
            yield f"{archive}/{member.name}", stream.read().decode()


def _molecule(text: str, name: str) -> Molecule:
    lines = plain(text).splitlines()
    count = int(lines[0]) if lines and lines[0].strip().isdecimal() else 0
    if count < 1 or len(lines) < count + 5:
        raise InputError(f"{name}:{len(lines)}: declares {count} atoms in {len(lines)} lines")
    head = lines[1].split()
    if len(head) != 17 or not head[1].isdecimal():
        raise InputError(f"{name}:2: expected 'gdb', an index and 15 numbers")
    _check(head[5:], name, 2)
    rows = [line.split() for line in lines[2 : count + 2]]
    for line, row in enumerate(rows, 3):
        if len(row) != 5:
            raise InputError(f"{name}:{line}: expected element, x, y, z and charge")
        if row[0] not in ELEMENTS:
            raise InputError(f"{name}:{line}: element '{row[0]}' does not occur in QM9")
        _check(row[1:4], name, line)
    positions = [word for row in rows for word in row[1:4]]
    return Molecule(int(head[1]), [row[0] for row in rows], positions, head[5:])


def _check(words: list[str], name: str, line: int) -> None:
    for word in words:
        try:
            number(word)
        except ValueError as error:
            raise InputError(f"{name}:{line}: {error}") from error


def uncharacterised(source: Path) -> set[int]:
    """Indices of the molecules to leave out, from ``uncharacterized.txt`` beside the files."""
    path = (source if source.is_dir() else source.parent) / "uncharacterized.txt"
    if not path.is_file():
        raise InputError(f"{path}: is missing; it names the 3,054 molecules to leave out")
    provenance.inputs(path)
    lines = path.read_text(errors="replace").splitlines()
    first = next((line.split()[0] for line in lines if line.strip()), "")
    rows = lines if first.isdecimal() else lines[HEADING:]  # a bare list has no heading
    return {int(line.split()[0]) for line in rows if line.strip() and line.split()[0].isdecimal()}


def free_atoms(source: Path) -> dict[str, list[float]] | None:
    """Element -> zpve, U0, U, H, G (Hartree) and Cv from ``atomref.txt``, or None if not there."""
    path = (source if source.is_dir() else source.parent) / "atomref.txt"
    if not path.is_file():
        return None
    provenance.inputs(path)
    energies = {}
    for line in path.read_text(errors="replace").splitlines():
        words = plain(line).split()
        if words and words[0] in ELEMENTS and len(words) == 7:
            _check(words[1:], str(path), 1)
            energies[words[0]] = [float(word) for word in words[1:]]
    if len(energies) != 5:
        raise InputError(f"{path}: expected six numbers for each of H, C, N, O and F")
    return energies
