"""Turbomole's and xtb's coord files, with the words that say their units.

    $coord [angs|bohr|frac]   x y z element [f]     $periodic N     $end
    $lattice [angs|bohr]      N rows                $cell [angs|bohr]  a b c alpha beta gamma

Lengths are bohr unless a word says otherwise. ``$chrg`` and ``$eht charge=`` become ``charge``,
``$spin`` and ``unpaired=`` become ``spin`` (unpaired electrons).
Format: TURBOMOLE manual, Format of the coord file; xtb documentation, Geometry input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.held import hold
from neupol_cli.io.structure_formats.numerals import number
from neupol_cli.io.units import BOHR

LENGTHS = {"": BOHR, "bohr": BOHR, "angs": 1.0, "angstrom": 1.0}
_LABEL = re.compile(r"\b(charge|unpaired)\s*=\s*([+-]?\d+)")
Section = tuple[int, list[str], list[int]]  # the row of its heading, words behind it, filled rows


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """The structure of a text."""
    rows = Rows(stream.read(), name)
    sections = _sections(rows)
    if "coord" not in sections:
        raise InputError(f"{name}: has no $coord")
    cell, count = _cell(rows, sections)
    head, words, body = sections["coord"]
    if not body:
        raise rows.bad(head, "has no atoms")
    numbers, positions, frozen = zip(*(_atom(rows, index) for index in body), strict=True)
    if words and words[0] == "frac":
        if count == 0:
            raise rows.bad(head, "fractions of a cell that is not there")
        places = np.array(positions) @ _with_lengths(cell)
    else:
        places = np.array(positions) * _unit(rows, head, words)
    atoms = Atoms(numbers, places, cell=cell if count else None, pbc=np.arange(3) < count)
    atoms.info |= _labels(rows, sections)
    hold(atoms, np.array(frozen))
    yield Frame(atoms, body[0] + 1)


def _sections(rows: Rows) -> dict[str, Section]:
    """Every ``$name`` up to ``$end``, which has to come."""
    sections: dict[str, Section] = {}
    body: list[int] = []
    for index, row in enumerate(rows.rows):
        text = row.partition("#")[0].strip()
        if text.startswith("$"):
            title, *words = text[1:].lower().replace("=", " = ").split() or [""]
            if title == "end":
                return sections
            if title in sections:
                raise rows.bad(index, f"${title[:40]} comes twice")
            body = []
            sections[title] = index, words, body
        elif text:
            body.append(index)
    raise InputError(f"{rows.name}: has no line '$end'; the file is truncated")


def _unit(rows: Rows, head: int, words: list[str]) -> float:
    """Angstrom a unit of length that a heading names."""
    word = words[0] if words else ""
    if word not in LENGTHS:
        raise rows.bad(head, f"unknown unit '{word[:20]}'; known are bohr, angs and frac")
    return LENGTHS[word]


def _atom(rows: Rows, index: int) -> tuple[int, list[float], bool]:
    words = rows.rows[index].partition("#")[0].split()
    if len(words) < 4:
        raise rows.bad(index, f"expected x, y, z and an element, found {len(words)} words")
    known = None if words[3].isdecimal() else elements.number_of(words[3])
    if known is None:
        raise rows.bad(index, f"unknown element '{words[3][:20]}'")
    return known, _numbers(rows, index, 3), words[4:5] == ["f"]


def _numbers(rows: Rows, index: int, count: int) -> list[float]:
    words = rows.rows[index].split()[:count]
    try:
        values = [number(word) for word in words]
    except ValueError as error:
        raise rows.bad(index, str(error)) from error
    if len(values) < count:
        raise rows.bad(index, f"expected {count} numbers, found {len(values)}")
    return values


def _cell(rows: Rows, sections: dict[str, Section]) -> tuple[np.ndarray, int]:
    """(3,3) Angstrom, and how many of its rows are periodic."""
    cell = np.zeros((3, 3))
    said = sections.get("periodic")
    count = _whole(rows, said) if said else (3 if {"lattice", "cell"} & sections.keys() else 0)
    if count not in (0, 1, 2, 3):
        raise rows.bad(said[0] if said else 0, f"$periodic is 0 to 3, not {count}")
    if count and "lattice" in sections:
        head, words, body = sections["lattice"]
        if len(body) != count:
            raise rows.bad(head, f"{len(body)} lattice vectors where {count} are needed")
        for axis, index in enumerate(body):
            cell[axis, :count] = _numbers(rows, index, count)
        return cell * _unit(rows, head, words), count
    if count and "cell" in sections:
        return _from_lengths(rows, sections["cell"], count), count
    if count:
        raise rows.bad(said[0] if said else 0, "$periodic without $lattice or $cell")
    return cell, 0


def _with_lengths(cell: np.ndarray) -> np.ndarray:
    """The cell, with a bohr along the directions that have no vector: there, places are bohr."""
    missing = np.linalg.norm(cell, axis=1) == 0.0
    return np.where(missing[:, None], BOHR * np.eye(3), cell)


def _from_lengths(rows: Rows, section: Section, count: int) -> np.ndarray:
    """Lengths, then angles in degrees: a b c alpha beta gamma; a b gamma; a."""
    from ase.geometry import cellpar_to_cell

    head, words, body = section
    if not body:
        raise rows.bad(head, "$cell without numbers")
    unit = _unit(rows, head, words)
    values = _numbers(rows, body[0], {1: 1, 2: 3, 3: 6}[count])
    lengths = [unit * length for length in values[:count]] + [1.0] * (3 - count)
    angles = {1: [90.0] * 3, 2: [90.0, 90.0, *values[2:]], 3: values[3:]}[count]
    cell = np.asarray(cellpar_to_cell([*lengths, *angles]))
    cell[count:] = 0.0
    return cell


def _whole(rows: Rows, section: Section) -> int:
    head, words, body = section
    text = next(iter(words), "") or (rows.rows[body[0]].strip() if body else "")
    if not re.fullmatch(r"[+-]?\d{1,6}", text):
        raise rows.bad(head, f"expected a whole number, found '{text[:20]}'")
    return int(text)


def _labels(rows: Rows, sections: dict[str, Section]) -> dict[str, int]:
    names = {"chrg": "charge", "spin": "spin"}
    labels = {names[key]: _whole(rows, sections[key]) for key in names if key in sections}
    if "eht" in sections:
        found = dict(_LABEL.findall(" ".join(sections["eht"][1]).replace(" = ", "=")))
        labels |= {"charge": int(found["charge"])} if "charge" in found else {}
        labels |= {"spin": int(found["unpaired"])} if "unpaired" in found else {}
    return labels
