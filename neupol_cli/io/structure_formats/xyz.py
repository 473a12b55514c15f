"""Strict reading of xyz and extended xyz text: every count, column and number is checked.

A frame is a count, a comment and that many rows. In extended xyz (github.com/libAtoms/extxyz) the
comment holds ``key=value`` pairs, among them ``Properties=species:S:1:pos:R:3`` and
``Lattice="..."``; a column ``move_mask`` says which atoms, or which of their coordinates, may move.
The original files of QM9 are read too: five columns, and three lines after the atoms (frequencies,
SMILES, InChI). Nothing is guessed: text that does not add up is refused with its line, because a
structure that was read by half is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import comment as comments
from neupol_cli.io.structure_formats import elements
from neupol_cli.io.structure_formats.comment import TRUTH, Value
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Frame, Lines, Reading
from neupol_cli.io.structure_formats.held import hold
from neupol_cli.io.structure_formats.numerals import cut_short, number, table

MOST = 100_000_000  # atoms in a frame
PLAIN = ("species", "S", 1), ("pos", "R", 3)
MOVES = "move_mask"
SPECIAL = {"properties": "Properties", "lattice": "Lattice", "pbc": "pbc"}  # of any case


def frames(stream: TextIO, name: str, reading: Reading = AS_WRITTEN) -> Iterator[Frame]:
    """Every frame of a text, one at a time.

    A frame with a bad row is reported and the next one read; after a count that does not fit, where
    the next frame starts is unknown, and nothing more is read.
    """
    lines = Lines(stream, name)
    head = lines.filled()
    if not head:
        yield Frame(None, error=InputError(f"{name}: is empty; a structure was expected"))
    while head:
        try:
            block = _cut(head, lines)
        except InputError as error:
            yield Frame(None, error=error)
            return
        yield _frame(block, name)
        head = lines.filled()


@dataclass(frozen=True)
class _Block:
    comment: str
    rows: list[str]
    line: int  # of the first row
    whole: bool  # the last row ends with a newline


def _cut(head: str, lines: Lines) -> _Block:
    """Comment and rows of the frame that starts with ``head``; InputError if they are not there."""
    count = _count(head, lines)
    comment = lines.next()
    if comment is None:
        raise lines.bad(f"the file ends before the {count} atoms that it declares")
    first = lines.number + 1
    rows: list[str] = []
    while len(rows) < count and (row := lines.next()) is not None:
        rows.append(row)
    if len(rows) < count:
        raise lines.bad(f"the file ends after {len(rows)} of the {count} atoms that it declares")
    block = _Block(comment, rows, first, lines.whole)
    if _original_qm9(comment):
        for what in ("frequencies", "SMILES", "InChI"):
            if lines.next() is None:
                raise lines.bad(f"the file ends before its line of {what}")
    return block


def _count(head: str, lines: Lines) -> int:
    word = head.strip()
    if not (word.isascii() and word.isdecimal()):
        raise lines.bad(f"expected a number of atoms, found '{word[:40]}'")
    count = int(word[:12])
    if count > MOST:
        raise lines.bad(f"declares {word[:40]} atoms, which no file holds")
    if count == 0:
        raise lines.bad("declares 0 atoms; a structure needs at least one")
    return count


def _original_qm9(comment: str) -> bool:
    return comment.startswith("gdb ") and len(comment.split()) == 17


def _frame(block: _Block, name: str) -> Frame:
    try:
        return Frame(_atoms(block), block.line)
    except _Bad as error:
        where = f"{name}:{block.line + error.row}"
        return Frame(None, error=InputError(f"{where}: {error}"))


class _Bad(Exception):
    """Trouble in one row, counted from the first atom; -1 is the comment."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def _atoms(block: _Block) -> Atoms:
    said = _said(block.comment)
    columns = _properties(said)
    rows = [row.split() for row in block.rows]
    _check_width(rows, columns)
    if not block.whole:
        _check_end(rows, columns or PLAIN)
    cell, pbc = _periodicity(said)
    info = _info(block.comment, said)
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for title, kind, width in columns or PLAIN:
        words = [row[start : start + width] for row in rows]
        arrays[title] = _column(title, kind, words)
        start += width
    numbers = arrays.pop("species") if "species" in arrays else arrays.pop("Z")
    atoms = Atoms(numbers, arrays.pop("pos"), cell=cell, pbc=pbc, info=info)
    arrays.pop("Z", None)
    if MOVES in arrays:
        hold(atoms, ~_moves(arrays.pop(MOVES)))
    for title, values in arrays.items():
        if title in atoms.arrays:
            raise _Bad(-1, f"Properties names '{title}' beside species and pos")
        atoms.arrays[title] = values
    return atoms


def _moves(values: np.ndarray) -> np.ndarray:
    """(A,) or (A,3) which atoms, or coordinates, may move."""
    if values.dtype.kind not in "bi" or values.shape[1:] not in ((), (3,)):
        raise _Bad(-1, f"{MOVES} is one or three of T and F an atom")
    return values.astype(bool)


def _said(comment: str) -> dict[str, Value | None]:
    """What the comment says in pairs of key and value; nothing where it is free text."""
    if "=" not in comment or _original_qm9(comment):
        return {}
    try:
        said = comments.pairs(comment)
    except ValueError as error:
        raise _Bad(-1, f"cannot understand the comment: {error}") from error
    return {SPECIAL.get(key.lower(), key): value for key, value in said.items()}


def _properties(said: dict[str, Value | None]) -> tuple[tuple[str, str, int], ...] | None:
    """(title, kind, width) of each property, or None where the comment names none."""
    value = said.get("Properties")
    if value is None:
        return None
    words = value.text.split(":")
    triples = list(zip(words[::3], words[1::3], words[2::3], strict=False))
    wrong = [
        title
        for title, kind, width in triples
        if kind not in ("R", "I", "S", "L") or not width.isdecimal() or not 0 < len(width) < 5
    ]
    columns = tuple((title, kind, int(width)) for title, kind, width in triples if not wrong)
    titles = [title for title, _, _ in columns]
    if wrong or len(words) % 3 or len(set(titles)) < len(titles):
        raise _Bad(-1, f"cannot understand Properties={value.text[:80]}")
    if ("pos", "R", 3) not in columns:
        raise _Bad(-1, "Properties lacks pos:R:3")
    if ("species", "S", 1) not in columns and ("Z", "I", 1) not in columns:
        raise _Bad(-1, "Properties lacks species:S:1")
    return columns


def _check_width(rows: list[list[str]], columns: Sequence[tuple[str, str, int]] | None) -> None:
    """Every row has the declared columns; undeclared, as many as the first, and at least 4."""
    width = sum(width for _, _, width in columns) if columns else max(4, len(rows[0]))
    for index, row in enumerate(rows):
        if len(row) != width:
            raise _Bad(index, f"expected {width} columns, found {len(row)}")


def _check_end(rows: list[list[str]], columns: Sequence[tuple[str, str, int]]) -> None:
    """Refuse a last number that was cut short: fewer decimals than all others, and no newline."""
    if columns[-1][1] != "R":
        return
    words = [word for row in rows for word in row[-columns[-1][2] :]]
    if cut_short(words):
        raise _Bad(len(rows) - 1, f"the file ends within a number ('{words[-1]}')")


def _column(title: str, kind: str, words: list[list[str]]) -> np.ndarray:
    """(A,) or (A,width) of one property; _Bad names the row that does not fit its kind."""
    if title == "species":
        return np.array([_element(row[0], index) for index, row in enumerate(words)])
    if kind == "R":
        values = _reals(title, words)
    elif kind == "I":
        values = np.array([[_integer(word, index) for word in row] for index, row in _rows(words)])
    elif kind == "L":
        values = np.array([[_truth(word, index) for word in row] for index, row in _rows(words)])
    else:
        values = np.array(words, dtype=str)
    if title == "Z":
        values = np.array([[_element(row[0], index)] for index, row in _rows(words)])
    return values if values.shape[1] > 1 else values[:, 0]


def _rows(words: list[list[str]]) -> Iterator[tuple[int, list[str]]]:
    return iter(enumerate(words))


def _reals(title: str, words: list[list[str]]) -> np.ndarray:
    """(A,W) of one property; all but positions may be NaN, as labels that nobody computed are."""
    finite = title == "pos"
    try:
        return table(words, finite)
    except ValueError:
        for index, row in enumerate(words):
            for word in row:
                _real(title, word, index, finite)
        raise


def _real(title: str, word: str, index: int, finite: bool = True) -> float:
    try:
        return number(word, finite)
    except ValueError as error:
        raise _Bad(index, f"{error}, in {title}") from error


def _integer(word: str, index: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", word):
        raise _Bad(index, f"'{word}' is not a whole number")
    return int(word)


def _truth(word: str, index: int) -> bool:
    if word not in TRUTH:
        raise _Bad(index, f"'{word}' is neither T nor F")
    return TRUTH[word]


def _element(word: str, index: int) -> int:
    known = elements.number_of(word)
    if known is None:
        raise _Bad(index, f"unknown element '{word[:20]}'")
    return known


def _periodicity(said: dict[str, Value | None]) -> tuple[np.ndarray | None, list[bool] | bool]:
    """Cell (3,3) and the directions that are periodic: all with a cell, unless ``pbc`` is said."""
    lattice, periodic = said.get("Lattice"), said.get("pbc")
    if "Lattice" in said and lattice is None:
        raise _Bad(-1, "cannot understand Lattice")
    cell = None if lattice is None else _cell(lattice.text)
    if periodic is None:
        return cell, cell is not None
    flags = [_truth(word, -1) for word in periodic.text.replace(",", " ").split()]
    if len(flags) not in (1, 3):
        raise _Bad(-1, f"pbc wants one or three of T and F, not '{periodic.text[:40]}'")
    return cell, flags if len(flags) == 3 else flags[0]


def _cell(text: str) -> np.ndarray:
    words = text.replace(",", " ").split()
    if len(words) != 9:
        raise _Bad(-1, f"Lattice has {len(words)} numbers and needs 9")
    return np.array([_real("Lattice", word, -1) for word in words]).reshape(3, 3)


def _info(comment: str, said: dict[str, Value | None]) -> dict[str, object]:
    """What else is said, with its types; free text is kept as ``comment``."""
    if _original_qm9(comment):
        return {"gdb": int(comment.split()[1])}
    if not said:
        return {"comment": comment.strip()} if comment.strip() else {}
    try:
        return {
            key: comments.typed(key, value)
            for key, value in said.items()
            if key not in SPECIAL.values()
        }
    except ValueError as error:
        raise _Bad(-1, f"cannot understand the comment: {error}") from error
