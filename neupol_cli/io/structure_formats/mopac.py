"""MOPAC's files, as far as their coordinates are Cartesian.

    input (.mop, .dat)   keywords; two titles; atoms
    archive (.arc)       the same under every FINAL GEOMETRY OBTAINED, resolved
    output (.out)        a job under every CALCULATION DONE, its table under FINAL HEAT OF FORMATION

An atom is ``element x flag y flag z flag``, in Angstrom; a flag of 0 fixes a coordinate. ``Tv`` is
a translation vector from the origin: one of a polymer, two of a layer, three of a crystal. ``+``
and ``++`` among keywords continue them on a further line, ``&`` on that of a title. A row that
names other atoms (``na nb nc``) is refused, and so is an input whose keywords change its atoms.
Formats: http://openmopac.net/manual, and what versions 2012 to 22 write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TextIO

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements, ending
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.held import hold
from neupol_cli.io.structure_formats.numerals import number

METHODS = r"(?:MNDOD?|AM1|RM1|PM3|PM6|PM7)"
HEADING = re.compile(
    r"\A\s*\*{60,}\s*\n(?:[^\n]*\n){0,12}?[^\n]*\bMOPAC"
    r"|\A\s*(?:SUMMARY OF|ARCHIVE FILE FOR) +\S+ +CALCULATION"
    rf"|\A(?:\*[^\n]*\n)*[^\n#!%]*(?i:\b{METHODS}\b)[^\n]*\n(?:[^\n]*\n){{2,6}}?"
    r"[ \t]*[A-Z][a-z]?(?:[ \t]+[-+]?\d*\.\d*[ \t]+[-+]?[01]){1,3}(?!\S)"
)
FINAL = "FINAL GEOMETRY OBTAINED"
MULTIPLICITIES = (
    "SINGLET", "DOUBLET", "TRIPLET", "QUARTET", "QUINTET", "SEXTET", "SEPTET", "OCTET", "NONET",
)  # fmt: skip
REFUSED = {
    r"GEO[_-]DAT|DATA|SETUP|OLDGEO|RESTART": "atoms or keywords of other files are not read",
    r"SYM(?!AVG|OIR)\w*": "coordinates that depend on others are not read",
    r"ADD-H|SITE": "MOPAC would add atoms or take some away",
    r"AIGIN|MOPAC": "internal coordinates are not read",
    r"A0": "lengths in bohr are not read",
}
INTERNAL = "internal coordinates are not read; have MOPAC write Cartesian ones (XYZ)"
FARTHEST = 10.0  # Angstrom, from an atom at the origin: farther in a triatomic is an angle
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(\d+\.?\d*)?\Z")  # with an isotope's mass
_LABEL = re.compile(r"\([^()]*\)")
_HEAT = re.compile(r"\s*FINAL HEAT OF FORMATION\s+=")
_STARS = re.compile(r"\s*\*{60,}\s*\Z")
_FORMULA = re.compile(r"Empirical Formula:.*=\s*(\d{1,9}) atoms")
_HEADS = re.compile(r"\s*(?:NO\.\s+ATOM\b.*)?\Z")
_ATOM = re.compile(r"\s*\d+\s+(\S+)" + r"\s+([-+]?\d+\.\d+)\s*([*+]?)" * 3 + r"\s*\Z")
_VECTOR = re.compile(r"\s*(T[123]) =(?:\s+[-+]?\d+\.\d+){3}")
_BEHIND = re.compile(r"\s*(?:CARTESIAN COORDINATES)?\s*\Z")


@dataclass(frozen=True)
class Row:
    """An atom, or a vector ``Tv``: its place in Angstrom, and which parts of it are fixed."""

    symbol: str
    place: tuple[float, ...]
    fixed: tuple[bool, ...]


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every structure of an input, archive or output.

    Raises:
        InputError: internal coordinates, a job without a final geometry, what cannot be read for
            certain.
    """
    rows = Rows(stream.read(), name)
    first = next(filter(str.strip, rows.rows), "")
    if first.lstrip().startswith("*" * 60):
        yield from _outputs(rows)
    elif any(FINAL in row for row in rows.rows):
        yield from _archives(rows)
    elif "CALCULATION" in first:
        raise InputError(f"{name}: is an archive without {FINAL}")
    else:
        yield _input(rows)


def _input(rows: Rows) -> Frame:
    lines = [index for index, row in enumerate(rows.rows) if not row.startswith("*")]
    words, start = _keywords(rows, lines)
    _check_keywords(rows, lines[0], words)
    body = _body(rows, lines[start:])
    if not body:
        raise rows.bad(len(rows) - 1, "no atoms behind the keywords and two titles")
    behind = [index for index in lines[start + len(body) :] if rows.rows[index].strip(" \t0.")]
    if behind:
        raise rows.bad(behind[0], "expected nothing behind the atoms; split several jobs")
    found = [_row(rows, index) for index in body]
    _check_triatomic(rows, body, found, "XYZ" in words)
    frame = _frame(rows, body, found, _state(rows, lines[0], words))
    return frame if rows.ended else replace(frame, note=ending.doubt(rows.name))


def _keywords(rows: Rows, lines: Sequence[int]) -> tuple[list[str], int]:
    """The keywords in capitals, and which of the lines is the first behind the titles."""
    text, titles, count, more = "", 2, 0, True
    while more:
        row = rows.rows[lines[count]] if count < len(lines) else ""
        text, count = f"{text} {row}", count + 1
        title = "&" in row and titles > 0
        titles -= title
        more = title or re.search(r"(?:^|\s)\+|\+\+", row) is not None
    words = [word.strip("+&") for word in text.upper().split()]
    return [word for word in words if word], count + titles


def _check_keywords(rows: Rows, index: int, words: list[str]) -> None:
    for name in (word.partition("=")[0] for word in words):
        for pattern, reason in REFUSED.items():
            if re.fullmatch(pattern, name):
                raise rows.bad(index, f"keyword {name[:40]}: {reason}")


def _body(rows: Rows, lines: Sequence[int]) -> list[int]:
    """The rows of atoms, which a blank row or an atomic number 0 ends."""
    body: list[int] = []
    for index in lines:
        if rows.rows[index].split()[:1] in ([], ["0"]):
            break
        body.append(index)
    return body


def _row(rows: Rows, index: int) -> Row:
    """One row of an input; ``element x y z`` without flags is one, too."""
    words = _LABEL.sub("", rows.rows[index]).replace(",", " ").split()
    if len(words) == 4 and len({"." in word for word in words[1:]}) == 1:
        words = [words[0], *(word for place in words[1:] for word in (place, "1"))]
    flags, tail = words[2:7:2], words[7:]
    if len(words) < 7 or (tail and "." not in tail[0] and set(tail[:3]) != {"0"}):
        raise rows.bad(index, INTERNAL)
    if any(not re.fullmatch(r"\+?[01]|-0", flag) for flag in flags):
        raise rows.bad(index, f"flags of optimization are 0 or 1, not '{' '.join(flags)[:40]}'")
    try:
        place = tuple(number(word) for word in words[1:7:2])
    except ValueError as error:
        raise rows.bad(index, str(error)) from error
    return Row(words[0], place, tuple(int(flag) == 0 for flag in flags))


def _check_triatomic(rows: Rows, body: list[int], found: list[Row], cartesian: bool) -> None:
    """Three atoms may be internal without naming others: two distances and an angle."""
    places = np.array([row.place for row in found])
    if cartesian or len(found) != 3 or places[0].any() or places[1, 1:].any() or places[2, 2]:
        return
    if abs(places[2, 1]) > FARTHEST:
        raise rows.bad(body[2], INTERNAL)


def _frame(rows: Rows, body: list[int], found: list[Row], state: dict[str, int]) -> Frame:
    """The structure of rows of atoms and of the vectors behind them."""
    count = sum(row.symbol.lower() != "tv" for row in found)
    vectors = np.array([row.place for row in found[count:]]).reshape(-1, 3)
    if any(row.symbol.lower() == "tv" for row in found[:count]) or not count or len(vectors) > 3:
        raise rows.bad(body[0], "expected atoms and up to three vectors Tv behind them")
    numbers, masses = zip(*map(partial(_element, rows), body[:count], found), strict=False)
    atoms = Atoms(numbers, [row.place for row in found[:count]], info=state)
    if len(vectors):
        atoms.set_cell(np.concatenate([vectors, np.zeros((3 - len(vectors), 3))]))
        atoms.pbc = np.arange(3) < len(vectors)
    if any(masses):
        atoms.set_masses(np.where(masses, masses, atoms.get_masses()))
    hold(atoms, np.array([row.fixed for row in found[:count]]))
    return Frame(atoms, body[0] + 1 if body[-1] - body[0] == len(body) - 1 else 0)


def _element(rows: Rows, index: int, row: Row) -> tuple[int, float]:
    """Atomic number, and the mass where it is another isotope's (else 0)."""
    match = _SYMBOL.match(row.symbol)
    symbol, mass = match.groups() if match else (row.symbol, None)
    heavy = elements.HEAVY_HYDROGEN.get(symbol.lower(), 0.0)
    known = 1 if heavy else elements.number_of(symbol)
    if known is None:
        raise rows.bad(index, f"'{row.symbol[:20]}' is not an element")
    return known, float(mass) if mass else heavy


def _state(rows: Rows, index: int, words: list[str]) -> dict[str, int]:
    """Charge and multiplicity, where keywords say them."""
    state = {}
    for word in words:
        name, _, value = word.partition("=")
        if word in MULTIPLICITIES:
            state["multiplicity"] = MULTIPLICITIES.index(word) + 1
        elif name in ("CHARGE", "MS"):
            try:
                count = number(value) if name == "CHARGE" else 2 * abs(number(value))
            except ValueError as error:
                raise rows.bad(index, f"{word[:40]}: {error}") from error
            if count % 1:
                raise rows.bad(index, f"{word[:40]} is of no whole number of electrons")
            state |= (
                {"charge": int(count)} if name == "CHARGE" else {"multiplicity": int(count) + 1}
            )
    return state


def _archives(rows: Rows) -> Iterator[Frame]:
    marks = [index for index, row in enumerate(rows.rows) if FINAL in row]
    yield from (_reported(_archive, rows, mark, len(rows)) for mark in marks)


def _reported(job: Callable[[Rows, int, int], Frame], rows: Rows, start: int, end: int) -> Frame:
    """The frame of a job, or the reason why there is none: others are read all the same."""
    try:
        return job(rows, start, end)
    except InputError as error:
        return Frame(None, error=error)


def _archive(rows: Rows, mark: int, end: int) -> Frame:
    lines = [index for index in range(mark + 1, end) if not rows.rows[index].startswith("*")]
    words, start = _keywords(rows, lines)
    body = _body(rows, lines[start:])
    if not body or body[-1] + (1 if rows.ended else 2) >= end:
        raise rows.bad(end - 1, "the file ends before its atoms do")
    found = [_row(rows, index) for index in body]
    return _counted(rows, mark, _frame(rows, body, found, _state(rows, lines[0], words)))


def _counted(rows: Rows, before: int, frame: Frame) -> Frame:
    """The frame, if it has as many atoms as the formula above says."""
    formulas = filter(None, map(_FORMULA.search, reversed(rows.rows[:before])))
    formula = next(formulas, None)
    assert frame.atoms is not None
    if formula is not None and int(formula[1]) != len(frame.atoms):
        reason = f"{len(frame.atoms)} atoms of {formula[1]}; was the file cut short?"
        raise rows.bad(before, reason)
    return frame


def _outputs(rows: Rows) -> Iterator[Frame]:
    starts = [index for index, row in enumerate(rows.rows) if "CALCULATION DONE:" in row]
    if not starts:
        raise InputError(f"{rows.name}: is not of MOPAC 2012 or later, or was cut short")
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield _reported(_job, rows, start, end)


def _job(rows: Rows, start: int, end: int) -> Frame:
    finals = [index for index in range(start, end) if _HEAT.match(rows.rows[index])]
    if len(finals) != 1:
        raise rows.bad(start, f"{len(finals)} times FINAL HEAT OF FORMATION in a job, not once")
    box = next((index for index in range(start, end) if _STARS.match(rows.rows[index])), start)
    said = "\n".join(rows.rows[start:box])
    charge = re.search(r"CHARGE ON SYSTEM =\s*([+-]?\d+)", said)
    state = {"charge": int(charge[1])} if charge else {}
    for unpaired, word in enumerate(MULTIPLICITIES):
        if re.search(rf"(?m)^ *\*  {word} +-", said):
            state["multiplicity"] = unpaired + 1
    vectors = {match[1] for match in map(_VECTOR.match, rows.rows[start:end]) if match}
    body, found = _final(rows, finals[0], end, periodic=bool(vectors))
    if sum(row.symbol.lower() == "tv" for row in found) != len(vectors):
        raise rows.bad(body[-1], f"expected {len(vectors)} vectors Tv; was the file cut short?")
    return _counted(rows, finals[0], _frame(rows, body, found, state))


def _final(rows: Rows, start: int, end: int, periodic: bool) -> tuple[list[int], list[Row]]:
    """The first Cartesian table behind the heat of formation.

    A job in internal coordinates has its Cartesian ones in a table without vectors.
    """
    for index in range(start, end):
        row = rows.rows[index]
        if row.count("(ANGSTROMS)") == 3:
            return _table(rows, index + 1, end, flagged=True)
        if row.strip() == "CARTESIAN COORDINATES":
            if periodic:
                raise rows.bad(index, INTERNAL)
            return _table(rows, index + 1, end, flagged=False)
    raise rows.bad(start, "no Cartesian coordinates follow")


def _table(rows: Rows, start: int, end: int, flagged: bool) -> tuple[list[int], list[Row]]:
    """The rows of a table; with flags, what has no star is fixed."""
    body: list[int] = []
    found: list[Row] = []
    while start < end and _HEADS.match(rows.rows[start]):
        start += 1
    for index in range(start, end):
        match = _ATOM.match(_LABEL.sub("", rows.rows[index]))
        if match is None:
            break
        symbol, *words = match.groups()
        fixed = tuple(flagged and not star for star in words[1::2])
        body.append(index)
        found.append(Row(symbol, tuple(map(float, words[::2])), fixed))
    behind = rows.get(start + len(body), "the end of a table")
    if not body or not _BEHIND.match(behind):
        raise rows.bad(start + len(body), f"expected an atom's row, found '{behind.strip()[:40]}'")
    return body, found
