"""Checks of what ASE read against a rule of its own: how many records, in which unit, which sites.

Each check gets the file's text (decompressed), the images that ASE found, and the file's name.
Those of one format that need more than a pattern are in extents.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import extents

if TYPE_CHECKING:
    from ase import Atoms

_SITES = re.compile(r"(?mi)^\s*_atom_site_(?:fract|cartn)_x\b")
Check = Callable[[str, "list[Atoms]", str], None]

# What stands once a structure in a file that may hold several.
RECORDS = {
    "vasp-xdatcar": r"(?mi)^\s*direct configuration\s*=",
    "vasp-xml": r"<calculation>",
    "vasp-out": r"(?m)^\s*POSITION\s+TOTAL-FORCE",
    "lammps-dump-text": r"(?m)^ITEM: TIMESTEP",
    "dmol-arc": r"(?m)^!DATE",
}
# Words that change what the numbers mean, in formats of which ASE's reader passes over them.
UNREAD = {
    "gaussian-in": (
        r"(?mi)^\s*#[^\n]*\bunits?\s*[=(][^\n]*\b(?:au|bohr|radian)",
        "says units=au, which is not supported; use Angstrom",
    ),
    "nwchem-in": (
        r"(?mi)^\s*geometry\b[^\n]*\bunits\s+(?!an)\S+",
        "has other units than Angstrom, which is not supported",
    ),
    "gamess-us-in": (
        r"(?mi)\bunits\s*=\s*bohr",
        "says units=bohr, which is not supported; use Angstrom",
    ),
    # ASE takes the number of a type for an atomic number.
    "lammps-dump-text": (
        r"(?m)^ITEM: ATOMS(?![^\n]*\belement\b)",
        "names types, not elements; dump 'element', too (dump_modify element)",
    ),
    # As LAMMPS writes it into the first line; Angstrom and g/mol are taken for granted.
    "lammps-data": (
        r"\A[^\n]*\bunits\s*=\s*(?!metal\b|real\b)\w",
        "has other units than metal or real, which is not supported",
    ),
}
SEVERAL = {"gaussian-in": r"(?mi)^\s*--link1--"}  # where ASE reads one


def known(kind: str) -> bool:
    """Whether there is a rule for ``kind``, ASE's name of a format."""
    return any(kind in table for table in (UNREAD, SEVERAL, RECORDS, CHECKS))


def check(kind: str, text: str, images: list[Atoms], name: str) -> None:
    """Every rule for ``kind``.

    Raises:
        InputError: records, sites or the file's end are missing, or a unit was passed over.
    """
    if kind in UNREAD and re.search(UNREAD[kind][0], text):
        raise InputError(f"{name}: {UNREAD[kind][1]}")
    if kind in SEVERAL and re.search(SEVERAL[kind], text):
        raise InputError(f"{name}: holds several jobs, of which one would be read; split it")
    if kind in RECORDS:
        extents.compare(len(re.findall(RECORDS[kind], text)), len(images), name)
    if kind in CHECKS:
        CHECKS[kind](text, images, name)


def _cif(text: str, images: list[Atoms], name: str) -> None:
    """Every block with sites was read; sites are wholly occupied and make up
    ``_chemical_formula_sum`` a whole number of times."""
    blocks = re.split(r"(?mi)^data_", text)
    extents.compare(sum(_SITES.search(block) is not None for block in blocks), len(images), name)
    for atoms in images:
        _occupied(atoms, name)
    formulas = re.findall(r"^_chemical_formula_sum\s+['\"]?([^'\"\n]*)", text, re.MULTILINE)
    if len(formulas) != len(images):
        return
    for formula, atoms in zip(formulas, images, strict=True):
        _formula(formula, atoms, name)


def _occupied(atoms: Atoms, name: str) -> None:
    for sites in atoms.info.get("occupancy", {}).values():
        partly = [
            f"{symbol} {share:g}" for symbol, share in sites.items() if not 0.995 < share < 1.005
        ]
        if partly or len(sites) > 1:
            raise InputError(
                f"{name}: a site is partly occupied ({', '.join(partly)}); an ordered structure is "
                "needed"
            )


def _formula(formula: str, atoms: Atoms, name: str) -> None:
    declared: Counter[str] = Counter()
    for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", formula):
        declared["H" if symbol in ("D", "T") else symbol] += float(count or 1)  # type: ignore[assignment]
    counts = Counter(atoms.get_chemical_symbols())
    units = sum(counts.values()) / (sum(declared.values()) or 1)
    symbols = declared.keys() | counts.keys()
    whole = round(units) >= 1 and abs(units - round(units)) < 0.01
    if not whole or any(
        abs(counts[s] - units * declared.get(s, 0)) > 0.02 * units + 1e-6 for s in symbols
    ):
        raise InputError(
            f"{name}: its sites are {atoms.get_chemical_formula()}, its formula is {formula}; "
            "sites are missing or partly occupied"
        )


CHECKS: dict[str, Check] = {
    "cif": _cif,
    "abinit-out": extents.abinit,
    "dmol-arc": extents.biosym,
    "dmol-car": extents.biosym,
    "espresso-out": extents.espresso,
    "gen": extents.gen,
    "lammps-data": extents.lammps,
}
