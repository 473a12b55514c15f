"""Tripos' mol2: every ``@<TRIPOS>MOLECULE``, its atoms and bonds counted.

The element is the atom type's part before the point (``C.ar`` is C). Charges of the last column
make the structure's ``charge`` where they sum to a whole number. A ``CRYSIN`` makes it periodic.
Format: Tripos, Mol2 file format, 2005.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.numerals import number

MARK = "@<TRIPOS>"


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every molecule of a text; one that is wrong is reported, and the next one read."""
    rows = Rows(stream.read(), name)
    starts = [k for k, row in enumerate(rows.rows) if row.startswith(f"{MARK}MOLECULE")]
    if not starts:
        raise InputError(f"{name}: has no {MARK}MOLECULE")
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        try:
            yield _molecule(rows, start, end, reading)
        except InputError as error:
            yield Frame(None, error=error)


def _molecule(rows: Rows, start: int, end: int, reading: Reading) -> Frame:
    title = rows.get(start + 1, "a molecule's name").strip()
    words = rows.get(start + 2, "a molecule's counts").split()
    if not words or not all(word.isdecimal() for word in words):
        raise rows.bad(start + 2, "expected counts of atoms and bonds")
    atoms = _section(rows, start, end, "ATOM")
    bonds = _section(rows, start, end, "BOND")
    declared = [int(word[:12]) for word in [*words, "0"][:2]]
    for what, count, block in zip(("atoms", "bonds"), declared, (atoms, bonds), strict=True):
        if len(block) != count:
            raise rows.bad(start + 2, f"declares {count} {what} and has {len(block)}")
    if not atoms:
        raise rows.bad(start + 2, "has no atoms")
    numbers, positions, charges = zip(*(_atom(rows, index) for index in atoms), strict=True)
    made = Atoms(numbers, positions, info={"comment": title} if title else {})
    total = sum(charges)
    if any(charges) and abs(total - round(total)) < 0.02:
        made.info["charge"] = round(total)
    _set_cell(made, rows, _section(rows, start, end, "CRYSIN"), reading)
    return Frame(made, atoms[0] + 1)


def _section(rows: Rows, start: int, end: int, title: str) -> list[int]:
    """The filled rows of a section, comments left out."""
    inside, found = False, []
    for index in range(start, end):
        row = rows.rows[index].strip()
        if row.startswith(MARK):
            inside = row == MARK + title
        elif inside and row and not row.startswith("#"):
            found.append(index)
    return found


def _atom(rows: Rows, index: int) -> tuple[int, list[float], float]:
    words = rows.rows[index].split()
    if len(words) < 6:
        raise rows.bad(index, f"expected at least 6 columns, found {len(words)}")
    try:
        position = [number(word) for word in words[2:5]]
        charge = number(words[8]) if len(words) > 8 else 0.0
    except ValueError as error:
        raise rows.bad(index, str(error)) from error
    symbol = words[5].partition(".")[0]
    known = None if symbol.isdecimal() else elements.number_of(symbol)
    if known is None:
        raise rows.bad(index, f"atom type '{words[5][:20]}' is of no element")
    return known, position, charge


def _set_cell(atoms: Atoms, rows: Rows, crysin: list[int], reading: Reading) -> None:
    if not crysin or reading.pbc is False:
        return
    words = rows.rows[crysin[0]].split()
    try:
        cell = [number(word) for word in words[:6]]
    except ValueError as error:
        raise rows.bad(crysin[0], str(error)) from error
    if len(cell) < 6 or (len(words) > 6 and words[6] != "1"):
        raise rows.bad(
            crysin[0],
            "a cell of another space group than 1 holds more atoms than these; write them all, or "
            "take these as a molecule (--no-pbc)",
        )
    atoms.set_cell(cell)
    atoms.pbc = True
