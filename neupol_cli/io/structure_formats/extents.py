"""How many structures and atoms there are in formats whose readers in ASE stop early.

Each check counts by a rule of its own what the text holds, and compares it with what ASE made of
it; arguments as in records.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats.elements import HEAVY_HYDROGEN, number_of

if TYPE_CHECKING:
    from ase import Atoms

# Where formats have names that ASE takes for formulas, with counts as large as they say.
FORMULAS = {
    "elk": re.compile(r"(?m)^\s*(\S+)[^\n]*spfname"),
    "xsd": re.compile(r'Components="([^"]*)"'),
}
ROUNDED = 0.012  # u; by so much the masses of programs differ for one element


def compare(
    records: int, images: int, name: str, what: str = "structures", least: bool = False
) -> None:
    """Refuses a file of more ``records`` than were read; with ``least``, of fewer, too.

    Raises:
        InputError: the counts differ.
    """
    if records > images:
        raise InputError(f"{name}: holds {records} {what}, of which {images} could be read")
    if least and records < images:
        raise InputError(f"{name}: {images} {what} were read where it holds {records}")


def formulas(kind: str, text: str, name: str) -> None:
    """Refuses names of elements that have numbers in them: ASE would count up to these.

    Raises:
        InputError: the first such name.
    """
    for word in FORMULAS[kind].findall(text):
        stem = word.strip("'\"").split(".")[0]
        if any(letter.isdigit() for letter in stem):
            raise InputError(f"{name}: '{stem[:40]}' is no element")


def gen(text: str, images: list[Atoms], name: str) -> None:
    """DFTB+'s gen: a count, the elements, that many rows, and four of a cell; nothing behind."""
    rows = [line for line in text.splitlines() if line.strip()]
    count, mode = rows[0].split()[:2]
    needed = 2 + int(count) + (0 if mode == "C" else 4)
    if len(rows) < needed:
        raise InputError(f"{name}: ends after {len(rows)} of {needed} rows; the file is truncated")
    if len(rows) > needed:
        raise InputError(f"{name}: holds more than its {count} atoms; split several structures")
    compare(int(count), len(images[0]), name, "atoms")


def biosym(text: str, images: list[Atoms], name: str) -> None:
    """Materials Studio's car and arc: behind each ``!DATE`` come atoms, ``end`` after each
    molecule and once more after the last one."""
    frames = [list(_filled(part))[1:] for part in re.split(r"(?m)^!DATE", text)[1:]]
    compare(len(frames), len(images), name)
    for rows, atoms in zip(frames, images, strict=False):
        words = [row.split()[0].lower() for row in rows]
        if not any(pair == ("end", "end") for pair in pairwise(words)):
            raise InputError(f"{name}: its last lines are not 'end' twice; the file is truncated")
        compare(sum(word not in ("end", "pbc") for word in words), len(atoms), name, "atoms")


def _filled(text: str) -> Iterator[str]:
    """Lines that are not blank; the first one, though."""
    for index, line in enumerate(text.splitlines()):
        if index == 0 or line.strip():
            yield line


def espresso(text: str, images: list[Atoms], name: str) -> None:
    """pw.x writes forces once a geometry, or none at all and one energy a run."""
    forces = len(re.findall(r"(?m)^\s*Forces acting on atoms", text))
    runs = re.split(r"(?m)^\s*Program PWSCF", text)[1:]
    energies = sum(re.search(r"(?m)^!+\s+total energy", run) is not None for run in runs)
    compare(max(forces, energies), len(images), name)
    counts = {int(word) for word in re.findall(r"number of atoms/cell\s*=\s*(\d+)", text)}
    for atoms in images:
        if len(atoms) not in counts:
            compare(max(counts, default=0), len(atoms), name, "atoms", least=True)


def abinit(text: str, images: list[Atoms], name: str) -> None:
    """ABINIT writes places at the end of each data set; of the cell, ASE knows the first only."""
    compare(len(re.findall(r"cartesian coordinates \(angstrom\) at end", text)), 1, name)
    if re.search(r"(?m)^\s*optcell\d*\s+[1-9]", text):
        raise InputError(f"{name}: optimizes its cell (optcell), which is not read")


def lammps(text: str, images: list[Atoms], name: str) -> None:
    """LAMMPS' data: as many rows of Atoms as it declares; elements: `lammps_elements`."""
    declared = re.search(r"(?m)^\s*(\d+)\s+atoms\b", text)
    rows = sections(text).get("Atoms", [])
    if declared is None or int(declared[1]) != len(rows):
        what = "no number" if declared is None else declared[1]
        raise InputError(f"{name}: declares {what} of atoms and has {len(rows)}")
    compare(len(rows), len(images[0]), name, "atoms")


def sections(text: str) -> dict[str, list[str]]:
    """The filled rows of each section of LAMMPS' data, under its heading."""
    found: dict[str, list[str]] = {}
    rows: list[str] = []
    for line in text.splitlines()[1:]:
        row = line.partition("#")[0].strip()
        if row[:1].isalpha():
            rows = found.setdefault(" ".join(row.split()), [])
        elif row:
            rows.append(row)
    return found


def lammps_elements(text: str, species: tuple[str, ...], name: str) -> dict[int, int]:
    """Type -> atomic number, by ``species`` or by names or masses in the file.

    Raises:
        InputError: neither tells which element a type is. ASE takes the number of a type for that
            of an element then, and the nearest element for any mass.
    """
    from ase.data import atomic_numbers

    found = sections(text)
    if species:
        return _as_told(text, species, name)
    labels = dict(row.split()[:2] for row in found.get("Atom Type Labels", []))
    if labels and all(label in atomic_numbers for label in labels.values()):
        return {int(type_): atomic_numbers[label] for type_, label in labels.items()}
    if not found.get("Masses"):
        raise InputError(f"{name}: names types, not elements; name them: --species Si,O")
    masses = dict(row.split()[:2] for row in found["Masses"])
    return {int(type_): _element_of(mass, int(type_), name) for type_, mass in masses.items()}


def _as_told(text: str, species: tuple[str, ...], name: str) -> dict[int, int]:
    """``species`` in the order of types, one for each."""
    declared = re.search(r"(?m)^\s*(\d+)\s+atom\s+types\b", text)
    if declared is not None and int(declared[1][:9]) != len(species):
        raise InputError(f"{name}: has {declared[1]} types, --species names {len(species)}")
    return {type_: number_of(symbol) or 0 for type_, symbol in enumerate(species, start=1)}


def _element_of(mass: str, type_: int, name: str) -> int:
    """The one element of this mass, as exact as it is written."""
    from ase.data import atomic_masses

    decimals = len(mass.partition(".")[2]) if mass.replace(".", "").isdecimal() else 9
    within = max(ROUNDED, 0.5001 * 10.0**-decimals)
    known = [
        (number, float(standard)) for number, standard in enumerate(atomic_masses) if number
    ] + [(1, heavy) for heavy in HEAVY_HYDROGEN.values()]
    numbers = {number for number, standard in known if abs(float(mass) - standard) <= within}
    if len(numbers) != 1:
        raise InputError(
            f"{name}: the mass {mass[:20]} of type {type_} is not that of one element; name the "
            "elements of all types: --species Si,O"
        )
    return numbers.pop()


def aims(text: str, name: str) -> None:
    """FHI-aims' geometry has no lattice vector or three, three where atoms are fractions of it."""
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    vectors = words.count("lattice_vector")
    needed = 3 if vectors or "atom_frac" in words else 0
    if vectors != needed:
        raise InputError(
            f"{name}: has {vectors} of {needed} lattice vectors: was the file cut short?"
        )
