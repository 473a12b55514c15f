"""Which format a file of structures is in."""

from __future__ import annotations

import re
from pathlib import Path

from neupol_cli.errors import InputError
from neupol_cli.io.compressed import ENDINGS, open_text, plain_name
from neupol_cli.io.structure_formats import mopac, xsf
from neupol_cli.io.structure_formats.xyz import LONGEST

# Formats with readers of our own: ASE's modules, which cost time, are not asked about these.
SUFFIXES = {
    ".xyz": "extxyz", ".extxyz": "extxyz", ".sdf": "sdf", ".sd": "sdf", ".mol": "sdf",
    ".mol2": "mol2", ".pdb": "proteindatabank", ".ent": "proteindatabank",
    ".cube": "cube", ".cub": "cube", ".xsf": "xsf", ".axsf": "xsf", ".mop": "mopac",
}  # fmt: skip
# By the first characters: formats whose files are called anything, or like those of another one.
HEADINGS = {
    "lammps-data": re.compile(r"(?ms)\A(?=.*^\s*\d+\s+atoms\b).*^\s*\S+\s+\S+\s+xlo\s+xhi\b"),
    "abinit-out": re.compile(r"\A\s*\.Version\s+\S+\s+of ABINIT"),
    "xyz": re.compile(
        r"\A\s*\d+[ \t]*\n[^\n]*\n[ \t]*[A-Za-z]{1,2}"
        r"(?:[ \t]+[-+]?\d*\.\d+(?:[eEdD][-+]?\d+)?){3}\b"
    ),
    "xsf": xsf.HEADING,
    "mopac": mopac.HEADING,
}
HEADING = 4096  # characters


def kind_of(path: Path) -> str:
    """ASE's name of the file's format; a text that starts with a number is taken for xyz."""
    ending = next((word for word in SUFFIXES if plain_name(path).endswith(word)), None)
    if ending is not None:
        return SUFFIXES[ending]
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        return _hidden(path) or _by_heading(path) or str(filetype(str(path), read=True))
    except UnknownFileTypeError:
        with open_text(path) as stream:
            if stream.readline(LONGEST).strip().isdecimal():
                return "xyz"
    packed = " once it is decompressed" if path.name.lower().endswith(ENDINGS) else ""
    raise InputError(
        f"{path}: is in no format that ASE knows{packed}; try xyz, extxyz, CIF or POSCAR"
    )


def _hidden(path: Path) -> str:
    """The format of a file that is called ``.cif`` or the like, of which ASE sees no ending."""
    from ase.io.formats import extension2format

    known = extension2format.get(path.name[1:]) if path.name.startswith(".") else None
    return known.name if known is not None else ""


def _by_heading(path: Path) -> str:
    with open_text(path) as stream:
        text = stream.read(HEADING)
    return next((kind for kind, pattern in HEADINGS.items() if pattern.search(text)), "")
