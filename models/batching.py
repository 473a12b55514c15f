"""Which structures are predicted together, and how much of that at a time."""

from __future__ import annotations

from collections.abc import Sequence

from neupol_cli.models.workers import Budget

PAIRS = 2_000_000  # of atoms, in a batch, and in all batches that threads are at together
NEIGHBOURS = 256  # of an atom in a network with a cutoff, for the sum over those batches
RECORD = 4  # what a record of every step, from which forces are made, adds to memory: a factor

at_work = Budget(PAIRS)


def batches(counts: Sequence[int], pairs: int) -> list[list[int]]:
    """Consecutive structures together, as long as their pairs stay within ``pairs``."""
    together: list[list[int]] = [[]]
    total = 0
    for k, count in enumerate(counts):
        if together[-1] and total + count * count > pairs:
            together.append([])
            total = 0
        together[-1].append(k)
        total += count * count
    return [batch for batch in together if batch]


def held(counts: Sequence[int], cutoff: float | None, copies: int) -> int:
    """What a batch takes of the pairs that all batches have together.

    Args:
        counts: atoms of its structures.
        cutoff: the network's; None joins all pairs.
        copies: of what a prediction holds, because of records and points that are twice there.
    """
    return copies * sum(n * (n if cutoff is None else min(n, NEIGHBOURS)) for n in counts)
