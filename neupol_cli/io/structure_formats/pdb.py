"""The Protein Data Bank's format: every MODEL, with what an atom is said to be twice refused.

Elements stand in columns 77 and 78, or follow from the atom's name where that is unambiguous.
Alternate locations and occupancies between 0 and 1 are refused unless ``--altloc`` chooses.
The title (TITLE, or a COMPND that is a plain name) and HEADER's code become ``comment`` and ``ID``.
Format: wwPDB, Protein Data Bank contents guide, version 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements
from neupol_cli.io.structure_formats.frame import Frame, Reading, Rows
from neupol_cli.io.structure_formats.numerals import number

ATOMS = ("ATOM  ", "HETATM")
COORDINATES = (slice(30, 38), slice(38, 46), slice(46, 54))
NO_END = "has no END record: whether atoms are missing behind the last one cannot be told"
_CHARGE = re.compile(r"(\d)([+-])|([+-])(\d)")


@dataclass(frozen=True)
class _Atom:
    row: int
    number: int
    position: list[float]
    altloc: str
    occupancy: float
    charge: int


def frames(stream: TextIO, name: str, reading: Reading) -> Iterator[Frame]:
    """Every model of a text; one that is wrong is reported, and the next one read."""
    rows = Rows(stream.read(), name)
    models = _models(rows)
    note = _end(rows)
    cell = _crystal(rows, reading)
    names = _names(rows)
    for index, model in enumerate(models):
        try:
            frame = _structure(rows, model, reading, note if index == 0 else "")
        except InputError as error:
            yield Frame(None, error=error)
            continue
        if cell is not None and frame.atoms is not None:
            frame.atoms.set_cell(cell)
            frame.atoms.pbc = True
        if frame.atoms is not None:
            frame.atoms.info |= names
        yield frame


def _names(rows: Rows) -> dict[str, str]:
    """What the file is called; a COMPND of the databank has specifications, others' a name."""
    texts: dict[str, list[str]] = {"TITLE ": [], "COMPND": []}
    code = ""
    for row in rows.rows:
        if row[:6] in texts:
            texts[row[:6]].append(row[10:80].strip())
        elif row.startswith("HEADER"):
            code = row[62:66].strip()
    title, compound = (" ".join(lines).strip() for lines in texts.values())
    found = {"ID": code, "comment": title or ("" if "MOL_ID" in compound else compound)}
    return {name: text for name, text in found.items() if text}


def _models(rows: Rows) -> list[list[int]]:
    """The rows of atoms of each MODEL, or of the whole file where there is none."""
    models: list[list[int]] = []
    outside: list[int] = []
    opened: int | None = None
    for index, row in enumerate(rows.rows):
        if row.startswith("MODEL "):
            if opened is not None:
                raise rows.bad(opened, "a MODEL without its ENDMDL; the file is truncated")
            opened = index
            models.append([])
        elif row.startswith("ENDMDL"):
            if opened is None and outside:  # as programs write that leave MODEL out
                models.append(outside)
                outside = []
            opened = None
        elif row.startswith(ATOMS):
            (outside if opened is None else models[-1]).append(index)
    if opened is not None:
        raise rows.bad(opened, "a MODEL without its ENDMDL; the file is truncated")
    models += [outside] if outside else []
    if not models:
        raise InputError(f"{rows.name}: holds no ATOM or HETATM")
    return models


def _end(rows: Rows) -> str:
    """What to say of a file without END; InputError where it is certain to be cut short."""
    if any(row.split() == ["END"] for row in rows.rows):
        return ""
    if not rows.ended:
        raise rows.bad(len(rows) - 1, "the file ends within a line and without END; truncated")
    return "" if any(row.startswith(("ENDMDL", "MASTER")) for row in rows.rows) else NO_END


def _crystal(rows: Rows, reading: Reading) -> list[float] | None:
    """Lengths and angles of the cell; the placeholder of 1 x 1 x 1 Angstrom is none."""
    for index, row in enumerate(rows.rows):
        if not row.startswith("CRYST1") or reading.pbc is False:
            continue
        columns = [slice(6, 15), slice(15, 24), slice(24, 33), slice(33, 40), slice(40, 47)]
        cell = [_number(rows, index, row[column]) for column in (*columns, slice(47, 54))]
        if cell[:3] in ([1.0] * 3, [0.0] * 3):
            return None
        group = row[55:66].split()
        if group not in ([], ["P", "1"], ["P1"], ["1"]):
            raise rows.bad(
                index,
                f"space group {' '.join(group)[:20]}: the cell holds more atoms than these; write "
                "them all, or take these as a molecule (--no-pbc)",
            )
        return cell
    return None


def _number(rows: Rows, index: int, word: str) -> float:
    try:
        return number(word.strip())
    except ValueError as error:
        raise rows.bad(index, str(error)) from error


def _structure(rows: Rows, model: list[int], reading: Reading, note: str) -> Frame:
    if not model:
        raise InputError(f"{rows.name}: a MODEL has no atoms")
    atoms = _chosen(rows, [_atom(rows, index) for index in model], reading.altloc)
    made = Atoms([atom.number for atom in atoms], [atom.position for atom in atoms])
    charge = sum(atom.charge for atom in atoms)
    if any(atom.charge for atom in atoms):
        made.info["charge"] = charge
    consecutive = model[-1] - model[0] + 1 == len(atoms)
    return Frame(made, model[0] + 1 if consecutive else 0, note=note and f"{rows.name}: {note}")


def _atom(rows: Rows, index: int) -> _Atom:
    row = rows.rows[index]
    if len(row) < 54:
        raise rows.bad(index, "an atom's line ends before its coordinates (54 columns)")
    position = [_number(rows, index, row[column]) for column in COORDINATES]
    occupancy = _number(rows, index, row[54:60]) if row[54:60].strip() else 1.0
    charge = _CHARGE.fullmatch(row[78:80].strip())
    signed = 0
    if charge:
        signed = int(charge[1] or charge[4]) * (-1 if "-" in charge[0] else 1)
    return _Atom(index, _element(rows, index), position, row[16].strip(), occupancy, signed)


def _element(rows: Rows, index: int) -> int:
    row = rows.rows[index]
    symbol = row[76:78].strip()
    known = elements.number_of(symbol) if symbol.isalpha() else None
    if known is None and (not symbol.isalpha() or len(row) < 76):
        known = _from_name(row[12:16], row[17:20].strip())
    if known is None:
        raise rows.bad(
            index,
            f"cannot tell the element of atom '{row[12:16].strip()}'; columns 77 and 78 are for it",
        )
    return known


def _from_name(name: str, residue: str) -> int | None:
    """The element that a name begins with: one letter in column 14, two from column 13 on."""
    letters = re.match(r"[A-Za-z]*", name.strip().lstrip("0123456789"))
    word = letters[0] if letters else ""
    one, two = elements.number_of(word[:1]), elements.number_of(word[:2])
    if name[:1] in " 0123456789":
        return one
    if len(name.strip()) == 4 and word[:1].upper() == "H":
        return 1
    if len(word) < 2 or two is None:
        return one
    # CA from column 13 on is calcium, or a careless writer's alpha carbon.
    return two if one is None or residue.upper() == word[:2].upper() else None


def _chosen(rows: Rows, atoms: list[_Atom], altloc: str | None) -> list[_Atom]:
    """The atoms of one location each.

    Raises:
        InputError: nobody chose one, or there is none of that name.
    """
    places = sorted({atom.altloc for atom in atoms if atom.altloc})
    if altloc is not None:
        if places and altloc not in places:
            raise InputError(f"{rows.name}: has no location '{altloc}', but {', '.join(places)}")
        return [atom for atom in atoms if atom.altloc in ("", altloc)]
    if len(places) > 1:
        index = next(atom.row for atom in atoms if atom.altloc)
        raise rows.bad(
            index, f"atoms in alternate locations {', '.join(places)}; choose one: --altloc A"
        )
    partly = [atom for atom in atoms if 0.0 < atom.occupancy < 0.995]
    if partly:
        raise rows.bad(
            partly[0].row,
            f"occupancy {partly[0].occupancy:g}: the atom is there in part of the cells only; "
            "--altloc A takes it as a whole one",
        )
    return atoms
