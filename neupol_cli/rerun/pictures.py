"""What pictures and pages say of where they come from, which other programs have written for us."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path


def _of_pdf(text: str) -> str:
    """A string of a PDF without the backslashes before its parentheses and backslashes."""
    return re.sub(r"\\([()\\])", r"\1", text)


def _as_it_is(text: str) -> str:
    return text


# What stands before the record, and how it is read.
PLACES: dict[str, tuple[bytes, Callable[[str], str]]] = {
    ".png": (b"Description\0", _as_it_is),
    ".pdf": (b"/Subject (", _of_pdf),
    ".svg": (b"<dc:description>", unescape),
    ".html": (b'<meta name="provenance" content="', unescape),
}


def record(path: Path) -> str:
    """A text that begins with the record; empty where there is none.

    Args:
        path: a file whose ending is one of `PLACES`.
    """
    before, read = PLACES[path.suffix.lower()]
    _, _, rest = path.read_bytes().partition(before)
    end = rest.find(b"\n")  # the record is one line
    return read((rest if end < 0 else rest[:end]).decode("latin-1"))
