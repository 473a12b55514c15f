"""Which known element a new one is most like: what a network learnt of it is a start."""

from __future__ import annotations

from collections.abc import Collection

# First and last atomic number of what has an element above it in the periodic table, and how many
# places before: transition metals of the fourth period and lanthanides have none.
ABOVE = (
    (3, 3, 2), (5, 18, 8), (19, 20, 8), (31, 36, 18), (37, 54, 18), (55, 56, 18), (72, 86, 32),
    (87, 118, 32),
)  # fmt: skip


def relative(number: int, known: Collection[int]) -> int | None:
    """The nearest known element above this one in the periodic table; None if there is none.

    Args:
        number: atomic number.
        known: those of the elements that a network knows.
    """
    while number not in known:
        steps = [step for first, last, step in ABOVE if first <= number <= last]
        if not steps:
            return None
        number -= steps[0]
    return number
