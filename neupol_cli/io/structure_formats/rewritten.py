"""Texts of programs put into words that ASE's readers understand, without a change of meaning."""

from __future__ import annotations

import re
from collections.abc import Callable

from neupol_cli.io.units import BOHR

_REPEATED = re.compile(r"(?<!\S)(\d{1,4})\*([-+.\w]+)")
_ECHO = re.compile(
    r"(?s)echo values of preprocessed input variables.*?\n\s*acell\s+(.*?)\s*Bohr\b.*?"
    r"\n(\s*rprim\s+)((?:\s*[-+.\dEeDd]+){9})"
)


def abinit_input(text: str) -> str:
    """ABINIT's input: ``3*1.0`` is ``1.0 1.0 1.0``."""
    return _REPEATED.sub(lambda match: " ".join([match[2]] * int(match[1])), text)


def abinit_output(text: str) -> str:
    """ABINIT's output: ``rprim`` counts in lengths of ``acell``, which ASE takes for Angstrom."""
    echo = _ECHO.search(text)
    if echo is None:
        return text
    lengths = [BOHR * float(word) for word in echo[1].split()]
    numbers = [float(word) for word in echo[3].split()]
    scaled = [f"{x * lengths[index // 3]:.10E}" for index, x in enumerate(numbers)]
    rows = "\n".join(" ".join(scaled[start : start + 3]) for start in (0, 3, 6))
    return text[: echo.start(3)] + rows + text[echo.end(3) :]


# Of formats by ASE's names.
REWRITTEN: dict[str, Callable[[str], str]] = {
    "abinit-in": abinit_input,
    "abinit-out": abinit_output,
}
