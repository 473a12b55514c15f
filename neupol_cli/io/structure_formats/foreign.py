"""Reading with ASE: bounded in memory, and the ends of files looked at that ASE does not miss.

Many of ASE's readers take a truncated file for a smaller structure. Where a format says how much
there should be, that is compared with what was read.
"""

from __future__ import annotations

import io
import re
import resource
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from neupol_cli.allocator import unpadded
from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import poscar as poscar_text
from neupol_cli.io.structure_formats.xyz import Frame

if TYPE_CHECKING:
    from ase import Atoms

MEMORY = 64 << 20, 2000, 2 << 30  # bytes a foreign reader may use: base, per byte, most
BEYOND = 1000  # times that it may ask for a line after the last one


def frames(path: Path, kind: str) -> Iterator[Frame]:
    """Every image that ASE finds in a file of the format that it calls ``kind``."""
    from ase.io import iread

    with bounded(str(path), kind, path.stat().st_size), _source(path, kind) as source:
        images = list(iread(source, format=kind, do_not_split_by_at_sign=True))
        if not images:
            raise InputError(f"{path}: holds no structure")
        if kind in WHOLE:
            WHOLE[kind](path.read_text(errors="replace"), images, str(path))
    yield from (Frame(atoms) for atoms in images)


class _Ending(io.TextIOWrapper):
    """A text that ends: who goes on asking for lines there believes some count in it.

    Errors: InputError then. A limit on memory alone comes late where a process holds free memory.
    """

    beyond = 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed: positional
        line = super().readline(size)
        if not line and size:
            self.beyond += 1
            if self.beyond > BEYOND:
                raise InputError(f"{self.name}: declares far more data than it holds")
        return line


def _source(path: Path, kind: str) -> AbstractContextManager[str | TextIO]:
    """What ASE is to read from: a text that ends where its reader takes one, else the name."""
    from ase.io.formats import ioformats, open_with_compression

    how = ioformats[kind]
    if how.isbinary or not how.acceptsfd:
        return nullcontext(str(path))
    return _Ending(open_with_compression(str(path), "rb"), encoding=how.encoding)


def poscar(stream: TextIO, name: str) -> Iterator[Frame]:
    """The structure of a POSCAR, its text checked first."""
    from ase.io import read

    text = poscar_text.checked(stream.read(), name)
    with bounded(name, "POSCAR", len(text)):
        yield Frame(read(io.StringIO(text), format="vasp"))


def _formula(text: str, images: list[Atoms], name: str) -> None:
    """A CIF's sites make up its ``_chemical_formula_sum`` a whole number of times."""
    formulas = re.findall(r"^_chemical_formula_sum\s+['\"]?([^'\"\n]*)", text, re.MULTILINE)
    if len(formulas) != len(images):
        return
    for formula, atoms in zip(formulas, images, strict=True):
        pairs = re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", formula)
        declared = {symbol: float(count or 1) for symbol, count in pairs}
        counts = Counter(atoms.get_chemical_symbols())
        units = sum(counts.values()) / (sum(declared.values()) or 1)
        symbols = declared.keys() | counts.keys()
        whole = round(units) >= 1 and abs(units - round(units)) < 0.01
        if not whole or any(
            abs(counts[s] - units * declared.get(s, 0)) > 0.02 * units + 1e-6 for s in symbols
        ):
            raise InputError(
                f"{name}: its sites are {atoms.get_chemical_formula()}, its formula is {formula}; "
                "sites are missing or partly occupied"
            )


def _ends(*words: str) -> Callable[[str, list[Atoms], str], None]:
    """A check that one of ``words`` starts a line, as the end of such a file must."""

    def check(text: str, images: list[Atoms], name: str) -> None:
        if not any(line.startswith(words) for line in text.splitlines()):
            raise InputError(f"{name}: has no line '{words[0]}'; the file is truncated")

    return check


def _gromacs(text: str, images: list[Atoms], name: str) -> None:
    """A gro file has a title, a count, that many rows and a box."""
    lines = text.splitlines()
    declared = int(lines[1].strip()[:12] or 0)
    if len(images[-1]) != declared or len(lines) < declared + 3 or len(lines[-1].split()) < 3:
        raise InputError(
            f"{name}:{len(lines)}: declares {declared} atoms and a box; it is truncated"
        )


WHOLE: dict[str, Callable[[str, list[Atoms], str], None]] = {
    "cif": _formula,
    "gromacs": _gromacs,
    "mol": _ends("M  END"),
    "sdf": _ends("M  END"),
    "proteindatabank": _ends("END"),
    "turbomole": _ends("$end"),
}


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
