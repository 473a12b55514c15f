"""Whether a text that carries no mark of its end was cut short, and is taken for a smaller one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from neupol_cli.errors import InputError
from neupol_cli.text import printable

# ASE's names of formats in which every beginning of a file is a file.
OPEN_ENDED = {
    "aims", "abinit-in", "castep-cell", "cp2k-restart", "crystal", "dftb", "dmol-incoor",
    "espresso-in", "gaussian-in", "gen", "mustem", "nwchem-in", "onetep-in", "siesta-in", "sys",
    "v-sim",
}  # fmt: skip
BLANK = re.compile(rb"\r?\n[ \t]*\r?\n")
GAUSSIAN_SECTIONS = 3  # route, title, atoms; a blank line ends each of them


def check(path: Path, kind: str) -> None:
    """Looks at the end of a file in an open-ended format.

    A last line without its end is doubted on stderr: a number in it may be one digit short.

    Raises:
        InputError: Gaussian's input without the blank line that ends its atoms.
    """
    if kind not in OPEN_ENDED or path.suffix in (".gz", ".bz2", ".xz"):
        return  # a packed file that was cut is refused as such
    content = path.read_bytes()
    if kind == "gaussian-in" and len(BLANK.findall(content.lstrip())) < GAUSSIAN_SECTIONS:
        raise InputError(
            f"{path}: no blank line ends the list of atoms: was the file cut short? Gaussian wants "
            "one, too"
        )
    if not content.endswith((b"\n", b"\r")):
        print(f"neupol: {doubt(str(path))}", file=sys.stderr)


def doubt(name: str) -> str:
    """What is said of a text whose last line has no end."""
    return f"{printable(name)}: the file does not end with a new line: it may have been cut short"
