"""XCrySDen's XSF: molecules, crystals, slabs, wires, and animations of them.

    ANIMSTEPS n                                     of a file of several structures
    CRYSTAL | SLAB | POLYMER | MOLECULE             or DIM-GROUP, then 3 | 2 | 1 | 0 and a group
    PRIMVEC [k], CONVVEC [k]                        three vectors
    PRIMCOORD [k], CONVCOORD [k]                    a count and a 1, then that many atoms
    ATOMS [k]                                       the atoms of a molecule
    BEGIN_BLOCK_DATAGRID_3D ...                     densities (io/volumetric/xsf.py)

An atom is an element or its number, a place in Angstrom and perhaps a force in Hartree/Angstrom.
Atoms are those of PRIMCOORD in the cell of PRIMVEC; what repeats CONVVEC's is passed over. A slab
repeats along its first two vectors, a wire along its first; neupol's own comment (``pbc T F T``)
says what no keyword can. Format: http://www.xcrysden.org/doc/XSF.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TextIO

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements, ending
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.numerals import table
from neupol_cli.io.units import HARTREE

DIMENSIONS = {"CRYSTAL": 3, "SLAB": 2, "POLYMER": 1, "MOLECULE": 0}
VECTORS = ("PRIMVEC", "CONVVEC")
COUNTED = ("PRIMCOORD", "CONVCOORD")
KEYWORDS = (*DIMENSIONS, *VECTORS, *COUNTED, "ATOMS", "ANIMSTEPS", "DIM-GROUP")
BLOCK = re.compile(r"\s*BEGIN_BLOCK_(\w+)", re.I)
PBC = re.compile(r"\s*#\s*values in .*\bpbc ([TF]) ([TF]) ([TF])\b")
_BOHR = re.compile(r"\s*units:\s*coords\s*=\s*(?!\s|A\b)")  # Octopus in atomic units
_LABEL = re.compile(r"([A-Za-z]{1,2})(?:[\d_-]\S*)?\Z")  # Fe1, C_h: elements with a sort behind
_GAP = r"(?:\s|#[^\n]*\n)*"  # blank lines and comments
HEADING = re.compile(
    rf"(?i)\A{_GAP}(?:ANIMSTEPS\s+\d+\s{_GAP})?(?:"
    rf"(?:CRYSTAL|SLAB|POLYMER|MOLECULE|DIM-GROUP\s+[0-3]\s+\d+)\s{_GAP}"
    r"(?:PRIMVEC|CONVVEC|PRIMCOORD|ATOMS)"
    r"|ATOMS(?:[ \t]+1)?[ \t]*\n[ \t]*\w{1,3}(?:[ \t]+[-+]?\d*\.\d+){3})\b"
)
SAME = 1e-4  # Angstrom; between the atoms of PRIMCOORD and their copy under ATOMS


@dataclass(frozen=True)
class Section:
    """A keyword, the number behind it, its row, and the filled rows below it."""

    keyword: str
    number: int | None
    row: int
    body: list[int]


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every structure of a text; data grids are passed over, what else comes behind them is not.

    Raises:
        InputError: it does not add up, or its lengths are bohr.
    """
    head, grids = [], False
    for index, line in enumerate(stream):
        grids = grids or BLOCK.match(line) is not None
        if not grids:
            head.append(line)
        elif _keyword(line):
            raise InputError(f"{name}:{index + 1}: structures behind data grids are not read")
        check_unit(line, f"{name}:{index + 1}")
    rows = Rows("".join(head), name)
    *others, last = structures(rows)
    yield from others
    yield last if rows.ended else replace(last, note=ending.doubt(name))


def check_unit(line: str, place: str) -> None:
    """Refuse what Octopus writes in atomic units, its atoms and grids alike."""
    if _BOHR.match(line):
        raise InputError(f"{place}: its lengths are not in Angstrom, as those of an XSF must be")


def structures(rows: Rows) -> list[Frame]:
    """The structures of the part before the data grids; there is one at least.

    Raises:
        InputError: it does not add up.
    """
    sections = _sections(rows)
    found = list(_frames(rows, sections, _pbc(rows, sections)))
    wanted = next((s.number for s in sections if s.keyword == "ANIMSTEPS"), 1)
    if len(found) != wanted or not found:
        raise InputError(
            f"{rows.name}: holds {len(found)} structures (PRIMCOORD or ATOMS), where ANIMSTEPS (1 "
            f"without it) says {wanted}"
        )
    return found


def _keyword(row: str) -> str:
    """The keyword that a row begins with, if it does."""
    word = (row.split() or [""])[0].upper()
    return word if word in KEYWORDS else ""


def _sections(rows: Rows) -> list[Section]:
    sections: list[Section] = []
    for index, row in enumerate(rows.rows):
        text = row.partition("#")[0].split()
        if _keyword(row):
            sections.append(Section(text[0].upper(), _number(rows, index, text[1:]), index, []))
        elif text and not sections:
            raise rows.bad(
                index, f"expected CRYSTAL, ATOMS or the like, found '{row[:40].strip()}'"
            )
        elif text:
            sections[-1].body.append(index)
    for section in sections:
        if section.body and section.keyword in (*DIMENSIONS, "ANIMSTEPS"):
            found = rows.rows[section.body[0]].strip()
            raise rows.bad(section.body[0], f"expected PRIMVEC or the like, found '{found[:40]}'")
    return sections


def _number(rows: Rows, index: int, words: list[str]) -> int | None:
    if not words:
        return None
    if not re.fullmatch(r"\d{1,9}", words[0]):
        raise rows.bad(index, f"expected a whole number, found '{words[0][:20]}'")
    return int(words[0])


def _pbc(rows: Rows, sections: list[Section]) -> np.ndarray:
    """(3,) in which directions the structures repeat."""
    stated = next(filter(None, map(PBC.match, rows.rows)), None)
    if stated is not None:
        return np.array([flag == "T" for flag in stated.groups()])
    count = None
    for section in sections:
        if section.keyword in (*VECTORS, *COUNTED) and count is None:
            raise rows.bad(section.row, f"nothing says whether it is {', '.join(DIMENSIONS)}")
        if section.keyword == "DIM-GROUP":
            text = " ".join(rows.rows[index] for index in section.body)
            if not re.fullmatch(r"\s*[0-3]\s+\d+\s*", text):
                raise rows.bad(
                    section.row, f"expected a dimension and a group, found '{text[:40]}'"
                )
            count = int(text.split()[0])
        count = DIMENSIONS.get(section.keyword, count)
    return np.arange(3) < (count or 0)


def _frames(rows: Rows, sections: list[Section], pbc: np.ndarray) -> Iterator[Frame]:
    cell, last, steps = None, None, 0
    for section in sections:
        if section.keyword in VECTORS:
            vectors = _vectors(rows, section)
            cell = vectors if section.keyword == "PRIMVEC" else cell
        elif section.keyword in COUNTED or section.keyword == "ATOMS":
            atoms = _atoms(rows, section)
            if section.keyword == "CONVCOORD" or _is_copy(rows, section, atoms, last):
                continue
            last, steps = atoms, steps + 1
            _set_cell(rows, section, atoms, cell, pbc)
            if section.number not in (None, steps):
                raise rows.bad(section.row, f"{section.keyword} {section.number} where {steps} is")
            yield Frame(atoms)


def _vectors(rows: Rows, section: Section) -> np.ndarray:
    """(3,3) Angstrom."""
    if len(section.body) != 3:
        raise rows.bad(section.row, f"{len(section.body)} vectors where 3 are needed")
    return np.array([_numbers(rows, index, (3,), 0) for index in section.body])


def _atoms(rows: Rows, section: Section) -> Atoms:
    body = _counted(rows, section) if section.keyword in COUNTED else section.body
    if not body:
        raise rows.bad(section.row, "has no atoms")
    numbers = [_element(rows, index) for index in body]
    widths = {len(rows.rows[index].partition("#")[0].split()) - 1 for index in body}
    places = np.array([_numbers(rows, index, tuple(widths)[:1], 1) for index in body])
    if places.shape[1] not in (3, 6):
        raise rows.bad(body[0], f"{places.shape[1]} numbers where 3, or 6 with a force, are needed")
    atoms = Atoms(numbers, places[:, :3])
    if places.shape[1] == 6:
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, forces=places[:, 3:] * HARTREE)
    return atoms


def _counted(rows: Rows, section: Section) -> list[int]:
    """The rows of atoms behind their count."""
    head, *body = section.body or [section.row]
    count = rows.rows[head].split()[0]
    if not count.isdecimal() or int(count[:12]) != len(body):
        raise rows.bad(head, f"declares {count[:12]} atoms and has {len(body)}")
    return body


def _element(rows: Rows, index: int) -> int:
    word = rows.rows[index].split()[0]
    label = _LABEL.match(word)
    known = elements.number_of(label[1] if label else word)
    if known is None:
        raise rows.bad(index, f"'{word[:20]}' is neither a keyword nor an element")
    return known


def _numbers(rows: Rows, index: int, widths: tuple[int, ...], first: int) -> list[float]:
    """The numbers of a row from word ``first`` on."""
    words = rows.rows[index].partition("#")[0].split()[first:]
    if len(words) not in widths:
        raise rows.bad(index, f"{len(words)} numbers where {widths[0]} are needed")
    try:
        return [float(value) for value in table([words])[0]]
    except ValueError as error:
        raise rows.bad(index, str(error)) from error


def _is_copy(rows: Rows, section: Section, atoms: Atoms, last: Atoms | None) -> bool:
    """Whether ATOMS are those of PRIMCOORD once more, as ABINIT's cut3d writes them."""
    if section.keyword != "ATOMS" or last is None or not last.pbc.any():
        return False
    same = np.array_equal(atoms.numbers, last.numbers)
    if not same or np.abs(atoms.positions - last.positions).max() > SAME:
        raise rows.bad(section.row, "ATOMS that are not those of PRIMCOORD")
    return True


def _set_cell(
    rows: Rows, section: Section, atoms: Atoms, cell: np.ndarray | None, pbc: np.ndarray
) -> None:
    if not pbc.any():
        return
    if cell is None:
        raise rows.bad(section.row, "a periodic structure without PRIMVEC")
    if section.keyword == "ATOMS":
        raise rows.bad(section.row, "ATOMS of a periodic structure, which has PRIMCOORD")
    atoms.set_cell(cell)
    atoms.pbc = pbc
