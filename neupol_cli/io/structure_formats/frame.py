"""What a reader of structures hands on, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats.embedding import Conformers

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Frame:
    """Either atoms, whose first stands on line ``line``, or the reason why there are none.

    ``note``: what whoever gave the file should know of how it was read. ``doubts``: reasons not to
    trust these atoms, for people and programs. ``conformers``: of a SMILES, where asked for.
    """

    atoms: Atoms | None
    line: int = 0
    error: InputError | None = None
    note: str = ""
    doubts: tuple[str, ...] = ()
    conformers: Conformers | None = None


@dataclass(frozen=True)
class Reading:
    """What the command line says of files that do not say it, or say it twice.

    Attributes:
        altloc: of a PDB, which of the alternate locations of an atom.
        species: of a POSCAR or LAMMPS data that name no elements, those, in order.
        pbc: whether structures are periodic, where somebody knows better.
        conformers: how many geometries of each SMILES to try; None: it has one, as structures that
            are no SMILES have.
    """

    altloc: str | None = None
    species: tuple[str, ...] = ()
    pbc: bool | None = None
    conformers: int | None = None


LONGEST = 1_000_000  # characters in a line
AS_WRITTEN = Reading()
Reader = Callable[[TextIO, str, Reading], Iterator[Frame]]


class Lines:
    """The lines of a stream, numbered from 1; knows whether the last one ended in a newline."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name, self.number, self.whole = stream, name, 0, True

    def next(self) -> str | None:
        """The next line, None at the end. Raises InputError: it is endless."""
        text = self.stream.readline(LONGEST)
        if not text:
            return None
        self.number += 1
        self.whole = text.endswith("\n")
        if not self.whole and len(text) == LONGEST:
            raise self.bad("the line has more than a million characters; is this a text file?")
        return text.lstrip("\ufeff") if self.number == 1 else text

    def filled(self) -> str:
        """The next line that is not blank, or nothing at the end."""
        while (text := self.next()) is not None:
            if text.strip():
                return text
        return ""

    def bad(self, reason: str) -> InputError:
        """An error at the line that was read last."""
        return InputError(f"{self.name}:{self.number}: {reason}")


class Rows:
    """The lines of a whole text, numbered from 1; complaints name file and line."""

    def __init__(self, text: str, name: str) -> None:
        self.rows = text.splitlines()
        self.name = name
        self.ended = text.endswith("\n") or not text

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int, what: str) -> str:
        """Row ``index`` from 0; InputError where the file ends before it."""
        if index >= len(self.rows):
            raise self.bad(len(self.rows) - 1, f"the file ends where {what} should be")
        return self.rows[index]

    def bad(self, index: int, reason: str) -> InputError:
        """An error at row ``index``, counted from 0."""
        return InputError(f"{self.name}:{index + 1}: {reason}")
