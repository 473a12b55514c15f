"""Numbers as programs write them: ``1.0``, Fortran's ``1.0D-3``, Mathematica's ``1.0*^-6``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_EXPONENT = re.compile(r"(?<=[\d.])(?:[dD]|\*\^)(?=[+-]?\d)")


def plain(text: str) -> str:
    """The text with every foreign exponent written as ``e``: ``2.5*^-6`` is ``2.5e-6``."""
    return _EXPONENT.sub("e", text)


def number(word: str, finite: bool = True) -> float:
    """One number, finite unless that is not needed; ValueError says what is wrong with the word."""
    if "_" in word:
        raise ValueError(f"'{word}' is not a number")
    try:
        value = float(plain(word))
    except ValueError:
        raise ValueError(f"'{word}' is not a number") from None
    if finite and not np.isfinite(value):
        raise ValueError(f"'{word}' is not finite")
    return value


def table(rows: Sequence[Sequence[str]], finite: bool = True) -> np.ndarray:
    """(R,C) float64 of words in rows of C; ValueError unless all are (finite) numbers."""
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        values = np.array([[number(word, finite) for word in row] for row in rows])
    if any("_" in word for row in rows for word in row):
        raise ValueError("'_' is part of no number")  # though Python thinks so
    if finite and not np.isfinite(values).all():
        raise ValueError("not all numbers are finite")
    return values


def cut_short(words: Sequence[str]) -> bool:
    """Whether the last of these numbers, where a text ends without a newline, lacks its end.

    So it does when all others have the same number of decimals, more than two, and it has fewer: a
    program wrote the column, and the file was truncated.
    """
    *others, last = (len(word.partition(".")[2]) for word in words)
    return bool(others) and min(others) == max(others) > max(last, 2)
