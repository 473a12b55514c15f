"""Reading with ASE: bounded in memory, and the ends of files looked at that ASE does not miss.

Many of ASE's readers take a truncated file for a smaller structure. Where a format says how much
there should be, that is compared with what was read.
"""

from __future__ import annotations

import io
import resource
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TextIO

from ase import Atoms

from neupol_cli.allocator import unpadded
from neupol_cli.errors import InputError
from neupol_cli.io.compressed import open_bytes, open_text
from neupol_cli.io.structure_formats import extents, records
from neupol_cli.io.structure_formats import poscar as poscar_text
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.numerals import cut_short
from neupol_cli.io.structure_formats.rewritten import REWRITTEN

MEMORY = 64 << 20, 2000, 2 << 30  # bytes a foreign reader may use: base, per byte, most
BEYOND = 1000  # times that it may ask for a line after the last one


def frames(path: Path, kind: str, reading: Reading) -> Iterator[Frame]:
    """Every image that ASE finds in a file of the format that it calls ``kind``."""
    from ase.io import iread

    with bounded(str(path), kind, path.stat().st_size), _source(path, kind) as source:
        options = _options(path, kind, reading)
        images = list(iread(source, format=kind, do_not_split_by_at_sign=True, **options))
        if not images or None in images:  # NWChem's, where nothing of what it looks for is there
            raise InputError(f"{path}: holds no structure")
        if records.known(kind):
            with open_text(path) as stream:
                records.check(kind, stream.read(), images, str(path))
    yield from (Frame(atoms) for atoms in images)


def _options(path: Path, kind: str, reading: Reading) -> dict[str, dict[int, int]]:
    """What ASE's reader has to be told beside the file, out of the file; what it would take for
    granted is refused."""
    if kind not in ("aims", "lammps-data", *extents.FORMULAS):
        return {}
    with open_text(path) as stream:
        text = stream.read()
    if kind in extents.FORMULAS:
        extents.formulas(kind, text, str(path))
        return {}
    if kind == "aims":
        extents.aims(text, str(path))
        return {}
    return {"Z_of_type": extents.lammps_elements(text, reading.species, str(path))}


class _Ending(io.TextIOWrapper):
    """A text that ends: who goes on asking for lines there believes some count in it.

    Raises:
        InputError: then. A limit on memory alone comes late where a process holds free memory.
    """

    beyond = 0
    place = ""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed: positional
        line = super().readline(size)
        if not line and size:
            self.beyond += 1
            if self.beyond > BEYOND:
                raise InputError(f"{self.place}: declares far more data than it holds")
        return line


def _source(path: Path, kind: str) -> AbstractContextManager[str | TextIO | BinaryIO]:
    """What ASE is to read from: a text that ends where its reader takes one, else the name."""
    from ase.io.formats import ioformats

    how = ioformats[kind]
    if not how.acceptsfd:
        return nullcontext(str(path))
    if how.isbinary:
        return open_bytes(path)
    rewrite = REWRITTEN.get(kind)
    if rewrite is None:
        text = _Ending(open_bytes(path), encoding=how.encoding)
    else:
        with open_text(path) as stream:
            content = rewrite(stream.read())
        text = _Ending(io.BytesIO(content.encode()), encoding="utf-8")
    text.place = str(path)
    return text


def poscar(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """The structure of a POSCAR, its text checked first."""
    from ase.io import read

    text = poscar_text.checked(stream.read(), name, reading.species)
    with bounded(name, "POSCAR", len(text)):
        atoms = read(io.StringIO(text), format="vasp")
    yield Frame(_titled(atoms, text))


def gromacs(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every frame of a gro file, each a title, a count, that many rows and a box."""
    from ase.io import read

    rows = Rows(stream.read(), name)
    start = 0
    while start < len(rows) and any(row.strip() for row in rows.rows[start:]):
        word = rows.get(start + 1, "a number of atoms").strip()
        if not (word.isascii() and word.isdecimal()):
            raise rows.bad(start + 1, f"expected a number of atoms, found '{word[:40]}'")
        end = start + int(word[:12]) + 3
        box = rows.get(end - 1, f"the box behind {word[:12]} atoms").split()
        if len(box) not in (3, 9) or (end == len(rows) and not rows.ended and cut_short(box)):
            raise rows.bad(end - 1, f"expected a box of 3 or 9 numbers, found {len(box)}")
        text = "\n".join(rows.rows[start:end]) + "\n"
        with bounded(name, "gromacs", len(text)):
            atoms = read(io.StringIO(text), format="gromacs")
        yield Frame(_titled(atoms, text), start + 3)
        start = end


def _titled(atoms: Atoms, text: str) -> Atoms:
    """With the first line of its text as its comment."""
    title = text.partition("\n")[0].strip()
    atoms.info |= {"comment": title} if title else {}
    return atoms


@contextmanager
def bounded(name: str, kind: str, size: int) -> Iterator[None]:
    """Run a reader that is not ours on a file of ``size`` bytes: whatever it raises is InputError.

    Foreign readers allocate what a file declares; a limit on memory, raised with the size of the
    file, turns a count of 10^12 into an error before it takes long.
    """
    base, per_byte, most = MEMORY
    try:
        with warnings.catch_warnings(), unpadded(), _memory(min(base + per_byte * size, most)):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: declares far more data than it holds") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{name}: cannot be read as {kind} ({reason})") from error


@contextmanager
def _memory(extra: int) -> Iterator[None]:
    """Let the process use only ``extra`` bytes more than it does now, where the system can tell."""
    used = Path("/proc/self/statm")
    if not used.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(used.read_text().split()[0]) * resource.getpagesize() + extra
    bounds = [bound for bound in (limit, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
