"""A text without a name that says what it is, as of a pipe: xyz, or a list of SMILES."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TextIO, cast

from neupol_cli import provenance
from neupol_cli.io.structure_formats import smiles_lines, xyz
from neupol_cli.io.structure_formats.frame import LONGEST, Frame, Reading

AHEAD = 5  # lines that are looked at where the first one is neither


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Its structures, as they come.

    xyz begins with a number. A text is of SMILES if its first line is; or, if that one is neither,
    if one of the next few is, and none an atom. Raises: as the readers of both.
    """
    again = _Again(stream, name)
    of_smiles = smiles_lines.begins(again.ahead(1))
    if of_smiles is None:
        of_smiles = smiles_lines.begins(again.ahead(AHEAD))
    reader = smiles_lines.frames if of_smiles else xyz.frames
    yield from reader(cast(TextIO, again), name, reading)


class _Again:
    """A stream whose first lines can be seen before they are read; its checksum is noted in the
    end."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name = stream, name
        self.kept: list[str] = []
        self.sum = hashlib.sha256()

    def ahead(self, count: int) -> list[str]:
        """So many of the first lines, or all there are, without blank ones and comments."""
        filled = [line for line in self.kept if _is_filled(line)]
        while len(filled) < count and (line := self._next(LONGEST)):
            self.kept.append(line)
            filled += [line] if _is_filled(line) else []
        return [line.lstrip("\ufeff") for line in filled]

    def readline(self, size: int) -> str:
        """The next line."""
        return self.kept.pop(0) if self.kept else self._next(size)

    def _next(self, size: int) -> str:
        line = self.stream.readline(size)
        self.sum.update(line.encode(errors="surrogatepass"))
        if not line:
            provenance.piped(self.name, self.sum.hexdigest())
        return line


def _is_filled(line: str) -> bool:
    return bool(line.strip("\ufeff \t\r\n\f\v")) and not line.startswith("#")
