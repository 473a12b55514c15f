"""Dividing structures into those to train on, to validate on and to test on."""

from __future__ import annotations

import numpy as np

from neupol_cli.errors import Usage


def shuffled(size: int, counts: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Cut one random permutation of ``size`` structures into train, valid and test.

    ``counts`` are the sizes (train, valid[, test]); without test it is all the rest. The
    permutation is numpy's ``RandomState(seed).permutation``, as published QM9 results use it
    (EGNN: seed 0). Usage when more structures are asked for than there are.
    """
    if len(counts) == 2:
        counts = (*counts, size - sum(counts))
    if len(counts) != 3 or min(counts) < 0 or sum(counts) > size or counts[0] < 1:
        wanted = ",".join(map(str, counts))
        raise Usage(f"cannot split {size} structures as {wanted}: give TRAIN,VALID[,TEST]")
    order = np.random.RandomState(seed).permutation(size)
    train, valid, test, _ = np.split(order, np.cumsum(counts))
    return {"train": train, "valid": valid, "test": test}


def parse(text: str) -> tuple[int, ...]:
    """``"800,100"`` is (800, 100); Usage if these are not two or three numbers."""
    words = text.split(",")
    if len(words) not in (2, 3) or not all(word.strip().isdecimal() for word in words):
        raise Usage(f"--split {text}: give TRAIN,VALID or TRAIN,VALID,TEST as numbers")
    return tuple(int(word) for word in words)
