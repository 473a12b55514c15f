"""Elements as files name them."""

from __future__ import annotations

from ase.data import atomic_numbers

SYMBOLS = {symbol.lower(): number for symbol, number in atomic_numbers.items() if number}
HEAVY_HYDROGEN = {"d": 2.01410177811, "t": 3.01604928199}  # u, IUPAC 2016


def number_of(word: str) -> int | None:
    """Atomic number of a symbol or of a number; there are 118 elements and no dummies."""
    known = SYMBOLS.get(word.lower())
    if known is None and word.isdecimal() and len(word) < 4 and 1 <= int(word) <= 118:
        known = int(word)
    return known
