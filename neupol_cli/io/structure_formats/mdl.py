"""MDL's molfiles and SDF, V2000 and V3000: every record, counted against its ``$$$$``.

A record is three lines of heading, counts, atoms and bonds, properties up to ``M  END``, and data
items ``> <NAME>``, which become the structure's info. Charges become ``charge``; a record whose
heading says 2D is a drawing and is refused.
Format: BIOVIA, CTfile formats, 2020.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import comment, elements
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.numerals import number

OLD_CHARGES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}  # of the atoms' seventh column
COLUMNS = (slice(0, 10), slice(10, 20), slice(20, 30), slice(31, 34))
_ITEM = re.compile(r">.*?<([^>]*)>")
_KEYWORD = re.compile(r"\b(CHG)=(-?\d+)")

Placed = tuple[int, list[float], int]  # atomic number, position, charge


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every record of a text; one that is wrong is reported, and the next one read."""
    rows = Rows(stream.read(), name)
    start = 0
    for end in _ends(rows):
        try:
            yield _record(rows, start, end)
        except InputError as error:
            yield Frame(None, error=error)
        start = end + 1


def _ends(rows: Rows) -> list[int]:
    """The row after each record: of its ``$$$$``, or the end of the file after the last one."""
    ends = [index for index, row in enumerate(rows.rows) if row.startswith("$$$$")]
    last = ends[-1] + 1 if ends else 0
    if any(row.strip() for row in rows.rows[last:]):
        ends.append(len(rows))
    return ends


def _record(rows: Rows, start: int, end: int) -> Frame:
    counts = rows.get(start + 3, "the counts of a record")
    if start + 3 >= end:
        raise rows.bad(end, "the record ends before its counts")
    if rows.rows[start + 1][20:22].upper() == "2D":
        raise rows.bad(start + 1, "its coordinates are a drawing (2D), not a structure")
    last = _m_end(rows, start, end)
    extended = "V3000" in counts
    atoms, line = (_extended if extended else _plain)(rows, start + 3, last)
    if not atoms:
        raise rows.bad(start + 3, "has no atoms")
    numbers, positions, charges = zip(*atoms, strict=True)
    info = _items(rows, last + 1, end)
    charge = sum(charges) if extended else _charge(rows, start + 4, last, charges)
    if charge or any(charges):
        info["charge"] = charge
    title = rows.rows[start].strip()
    info |= {"comment": title} if title else {}
    return Frame(Atoms(numbers, positions, info=info), line + 1)


def _m_end(rows: Rows, start: int, end: int) -> int:
    for index in range(start, end):
        if rows.rows[index].split() == ["M", "END"]:
            return index
    raise rows.bad(end - 1, "the record has no line 'M  END'; the file is truncated")


def _plain(rows: Rows, head: int, last: int) -> tuple[list[Placed], int]:
    """Atoms of a V2000 record, and the row of the first one."""
    line = rows.rows[head]
    try:
        count, bonds = int(line[:3]), int(line[3:6] or 0)
    except ValueError as error:
        raise rows.bad(head, f"expected counts, found '{line.strip()[:40]}'") from error
    first = head + 1
    if first + count + bonds > last:
        raise rows.bad(last, f"the record ends before its {count} atoms and {bonds} bonds")
    return [_atom(rows, index) for index in range(first, first + count)], first


def _atom(rows: Rows, index: int) -> Placed:
    line = rows.rows[index]
    words = line.split()
    try:
        position = [number(word) for word in words[:3]]
        symbol = words[3]
    except (ValueError, IndexError):  # columns without blanks between them
        words = [line[column].strip() for column in COLUMNS]
        position = [_number(rows, index, word) for word in words[:3]]
        symbol = words[3]
    code = line[36:39].strip()
    charge = OLD_CHARGES.get(int(code), 0) if code.isdecimal() else 0
    return _element(rows, index, symbol), position, charge


def _number(rows: Rows, index: int, word: str) -> float:
    try:
        return number(word)
    except ValueError as error:
        raise rows.bad(index, str(error)) from error


def _element(rows: Rows, index: int, symbol: str) -> int:
    known = None if symbol.isdecimal() else elements.number_of(symbol)
    if known is None:
        raise rows.bad(index, f"unknown element '{symbol[:20]}'")
    return known


def _charge(rows: Rows, first: int, last: int, charges: tuple[int, ...]) -> int:
    """The sum of ``M  CHG``, which replaces the atoms' own column where it is there."""
    total, there = 0, False
    for index in range(first, last):
        row = rows.rows[index]
        if row.startswith(("M  CHG", "M  RAD")):
            there = True
        if row.startswith("M  CHG"):
            words = row.split()[3:]
            if not all(re.fullmatch(r"[+-]?\d+", word) for word in words):
                raise rows.bad(index, f"expected charges, found '{row.strip()[:40]}'")
            total += sum(map(int, words[1::2]))
    return total if there else sum(charges)


def _extended(rows: Rows, head: int, last: int) -> tuple[list[Placed], int]:
    """Atoms of a V3000 record, and the row of the first one."""
    logical = list(_joined(rows, head + 1, last))
    counts = next((words for _, words in logical if words[:1] == ["COUNTS"]), [])
    if len(counts) < 2 or not counts[1].isdecimal():
        raise rows.bad(head, "a V3000 record without its COUNTS")
    begin = [k for k, (_, words) in enumerate(logical) if words[:2] == ["BEGIN", "ATOM"]]
    end = [k for k, (_, words) in enumerate(logical) if words[:2] == ["END", "ATOM"]]
    block = logical[begin[0] + 1 : end[0]] if begin and end else []
    if len(block) != int(counts[1]):
        raise rows.bad(head, f"declares {counts[1][:12]} atoms and has {len(block)}")
    return [_extended_atom(rows, index, words) for index, words in block], (
        block[0][0] if block else head
    )


def _joined(rows: Rows, first: int, last: int) -> Iterator[tuple[int, list[str]]]:
    """The words of each ``M  V30`` line, with those of the lines that continue it."""
    text, start = "", first
    for index in range(first, last):
        row = rows.rows[index]
        if not row.startswith("M  V30 "):
            continue
        start = start if text else index
        text += row[7:].rstrip()
        if text.endswith("-"):
            text = text[:-1]
            continue
        yield start, text.split()
        text = ""


def _extended_atom(rows: Rows, index: int, words: list[str]) -> Placed:
    if len(words) < 5:
        raise rows.bad(index, "an atom should be index, element, x, y, z")
    position = [_number(rows, index, word) for word in words[2:5]]
    charges = [int(match[2]) for match in _KEYWORD.finditer(" ".join(words[5:]))]
    return _element(rows, index, words[1]), position, sum(charges)


def _items(rows: Rows, first: int, end: int) -> dict[str, object]:
    """The data items behind a record, each with its type."""
    items: dict[str, object] = {}
    index = first
    while index < end:
        match = _ITEM.match(rows.rows[index])
        index += 1
        if match is None:
            continue
        content = []
        while index < end and rows.rows[index].strip():
            content.append(rows.rows[index].strip())
            index += 1
        items[match[1]] = comment.item("\n".join(content))
    return items
