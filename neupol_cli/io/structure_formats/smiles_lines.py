"""Lists of SMILES: lines of SMILES and name, or a table with a column of them.

    # a comment                      name,Smiles,activity
    CCO ethanol                      ethanol,CCO,3.1
    c1ccccc1 benzene                 benzene,c1ccccc1,2.2

A first line with a column called smiles (or, if none is, one name with smiles in it) heads a table,
separated by commas, tabs or semicolons; one that begins with the word heads lines. What stands
behind a SMILES in a line becomes the structure's comment, other columns its info, each value with
its type. Molecules are built on all threads, in the order of the lines (models/workers.py).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TextIO

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import comment, elements, smiles
from neupol_cli.io.structure_formats.frame import Frame, Lines, Reading
from neupol_cli.io.structure_formats.numerals import number
from neupol_cli.models.workers import in_order

COLUMN = "smiles"
SEPARATORS = ",\t;"
_COUNT = re.compile(r"\s*\d+\s*")


@dataclass(frozen=True)
class Row:
    """A SMILES with its place, ``file:line``, and what else is said of it; or what is wrong.

    ``whole``: whether its line ends; of one that does not a part may be missing.
    """

    place: str
    word: str = ""
    info: dict[str, object] = field(default_factory=dict)
    wrong: str = ""
    whole: bool = True


class Heading(NamedTuple):
    """
    Attributes:
        separator: of columns.
        names: theirs.
        column: which of them has SMILES, from 0.
    """

    separator: str
    names: list[str]
    column: int


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """The molecule of every line, in order; one that is wrong is reported, and the next one read.

    Raises:
        UsageError: RDKit is not there.
        InputError: a line is endless.
    """
    return _built(_rows(Lines(stream, name)), name, reading)


def table(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """The molecule of every row below a heading. Raises: as :func:`frames`, or there is none."""
    lines = Lines(stream, name)
    first = lines.filled()
    heading = _heading(first, sure=True)
    if heading is None:
        names = ", ".join(first.split())[:200]
        raise lines.bad(f"has no column '{COLUMN}', only {names or 'nothing at all'}")
    return _built(_cells(lines, heading), name, reading)


def one(word: str, reading: Reading) -> Frame:
    """The molecule of a SMILES that stands for itself.

    Raises:
        UsageError: RDKit is not there.
    """
    smiles.require(f"{word}: no such file; to take it for a SMILES: ")
    try:
        return _molecule(Row(word, word), reading)
    except ValueError as error:
        reason = f"{word}: no such file, and as a SMILES it {error}"
        return Frame(None, error=InputError(reason))


def begins(lines: Sequence[str]) -> bool | None:
    """Whether a text whose first filled lines are these is of SMILES.

    Returns:
        False of xyz, also where its count is gone; None where they are neither.
    """
    if lines and _COUNT.fullmatch(lines[0]):
        return False
    if any(map(_is_atom, lines)):
        return False
    if any(_is_heading(line) or smiles.looks_like(line.split()[0]) for line in lines):
        return True
    return None


def _is_heading(line: str) -> bool:
    return _heading(line) is not None or line.split()[0].lower() == COLUMN


def _is_atom(line: str) -> bool:
    """Whether a line is an element and three numbers, a row of xyz: ``O 0 0 0.119`` is no water."""
    symbol, *rest = line.split()
    if elements.number_of(symbol) is None or symbol != symbol.capitalize() or len(rest) < 3:
        return False
    try:
        return all(number(word, finite=False) is not None for word in rest[:3])
    except ValueError:
        return False


def _heading(line: str, sure: bool = False) -> Heading | None:
    """The heading of a table with SMILES, if this is one.

    Args:
        line: a first one.
        sure: whether it can only be that, and no molecule called smiles1.
    """
    found = [(separator, _split(line, separator)) for separator in SEPARATORS]
    for separator, names in found:
        low = [name.lower() for name in names]
        if COLUMN in low and len(names) > (not sure):
            return Heading(separator, names, low.index(COLUMN))
    for separator, names in found:
        like = [k for k, name in enumerate(names) if COLUMN in name.lower()]
        if len(like) == 1 < len(names) and (sure or not smiles.looks_like(names[0])):
            return Heading(separator, names, like[0])
    return None


def _split(line: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=separator))
    except csv.Error:  # a column of more letters than any heading has
        cells = []
    return [cell.strip() for cell in cells] or [""]


def _rows(lines: Lines) -> Iterator[Row]:
    """What stands in each line, or below the heading of a table."""
    first = _uncommented(lines)
    heading = _heading(first) if first else None
    if heading is not None:
        yield from _cells(lines, heading)
        return
    line = _uncommented(lines) if first.split()[:1] and _is_heading(first) else first
    while line:
        yield replace(_row(line, f"{lines.name}:{lines.number}"), whole=lines.whole)
        line = _uncommented(lines)


def _uncommented(lines: Lines) -> str:
    line = lines.filled()
    while line.startswith("#"):
        line = lines.filled()
    return line


def _row(line: str, place: str) -> Row:
    word, *rest = line.split(maxsplit=1)
    name = rest[0].strip() if rest else ""
    if _is_atom(line):
        return Row(place, word, wrong="and three numbers are an atom of an xyz file, not a SMILES")
    if name.startswith("|"):
        return Row(place, word, wrong="has an extension (|...|), which is not read")
    return Row(place, word, {"comment": name} if name else {})


def _cells(lines: Lines, heading: Heading) -> Iterator[Row]:
    reader = csv.reader(iter(lines.next, None), delimiter=heading.separator, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(f"{lines.name}:{lines.number}", wrong=f"is no row of a table: {error}")
            continue
        if any(cell.strip() for cell in cells):
            row = _of_cells(cells, heading, f"{lines.name}:{lines.number}")
            yield replace(row, whole=lines.whole)


def _of_cells(cells: list[str], heading: Heading, place: str) -> Row:
    if len(cells) != len(heading.names):
        return Row(place, wrong=f"has {len(cells)} columns, the heading {len(heading.names)}")
    filled = [k for k, cell in enumerate(cells) if cell.strip() and k != heading.column]
    info = {heading.names[k]: comment.item(cells[k].strip()) for k in filled}
    word = cells[heading.column].strip()
    return Row(place, word, info, wrong="" if word else "has no SMILES")


def _built(rows: Iterator[Row], name: str, reading: Reading) -> Iterator[Frame]:
    smiles.require(f"{name}: ")
    empty = True
    for frame in in_order(partial(_frame, reading=reading), rows):
        empty = False
        yield frame
    if empty:
        yield Frame(None, error=InputError(f"{name}: holds no SMILES"))


def _frame(row: Row, reading: Reading) -> Frame:
    try:
        return _molecule(row, reading)
    except ValueError as error:
        word = f"'{row.word[:60]}' " if row.word else ""
        return Frame(None, error=InputError(f"{row.place}: {word}{error}"))


def _molecule(row: Row, reading: Reading) -> Frame:
    """What a row holds; ValueError, which continues a sentence about it, where it is nothing."""
    if row.wrong:
        raise ValueError(row.wrong)
    made = smiles.molecule(row.word, reading.conformers)
    _settle(made.atoms.info, row.info)
    made.atoms.info = row.info | made.atoms.info
    cut = () if row.whole else ("its line does not end: it may have been cut short",)
    note = smiles.NOTE if made.conformers is None else smiles.CONFORMERS_NOTE
    doubts = (*cut, *made.doubts)
    return Frame(made.atoms, note=note, doubts=doubts, conformers=made.conformers)


def _settle(built: dict[str, object], said: dict[str, object]) -> None:
    """A row's own charge is the SMILES'; its multiplicity goes before what radicals suggest.

    Raises:
        ValueError: the charges differ.
    """
    charge = built.get("charge", 0)
    if said.get("charge", charge) != charge:
        raise ValueError(f"has charge {charge}, its row says {said['charge']}")
    if "multiplicity" in said or "spin" in said:
        built.pop("multiplicity", None)
