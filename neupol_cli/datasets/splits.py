"""Partitions: structures divided into the splits to train on, to validate on and to test on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neupol_cli.errors import InputError, UsageError

SPLITS = ("train", "valid", "test")  # in the order of their use
Partition = dict[str, np.ndarray]  # the indices of each split


def shuffled(size: int, counts: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Cut one random permutation of ``size`` structures into train, valid and test.

    ``counts`` are the sizes (train, valid[, test]); without test it is all the rest. The
    permutation is numpy's ``RandomState(seed).permutation``, as published QM9 results use it
    (EGNN: seed 0). UsageError when more structures are asked for than there are.
    """
    if len(counts) not in (2, 3) or min(counts) < 0 or sum(counts) > size or counts[0] < 1:
        wanted = ",".join(map(str, counts))
        raise UsageError(f"cannot split {size} structures as {wanted}: give TRAIN,VALID[,TEST]")
    if len(counts) == 2:
        counts = (*counts, size - sum(counts))
    order = np.random.RandomState(seed).permutation(size)
    train, valid, test, _ = np.split(order, np.cumsum(counts))
    return {"train": train, "valid": valid, "test": test}


def with_test(
    own: int, size: int, counts: tuple[int, ...] | None, seed: int
) -> dict[str, np.ndarray]:
    """Split ``own`` structures of which ``size - own`` more, given as test set, follow.

    ``counts`` are (train, valid[, test]) of the own ones. Default: 95 % and 5 % where a test set is
    given, else 80 %, 10 % and 10 %.
    """
    if counts is None:
        valid = own // (20 if size > own else 10) or min(1, own - 1)
        counts = (own - valid if size > own else max(1, own - 2 * valid), valid)
    if size == own:
        return shuffled(own, counts, seed)
    return {**shuffled(own, (*counts[:2], 0), seed), "test": np.arange(own, size)}


def parse(text: str) -> tuple[int, ...]:
    """``"800,100"`` is (800, 100); UsageError if these are not two or three numbers."""
    words = text.split(",")
    if len(words) not in (2, 3) or not all(word.strip().isdecimal() for word in words):
        raise UsageError(f"--partition {text}: give TRAIN,VALID or TRAIN,VALID,TEST as numbers")
    return tuple(int(word) for word in words)


def chosen(partitions: Mapping[str, Partition], name: str, source: str = "") -> Partition:
    """One of a file's partitions.

    Args:
        name: which; empty for the only one.
        source: the file, for messages.

    Returns:
        The indices of each split; nothing where the file has no partition and none is named.

    Raises:
        UsageError: there are several and none is named.
        InputError: there is none of that name.
    """
    where, there = f"{source}: " * bool(source), ", ".join(partitions) or "none"
    if name and name not in partitions:
        raise InputError(f"{where}no partition {name!r}; there are: {there}")
    if not name and len(partitions) > 1:
        raise UsageError(f"{where}choose one of its partitions with --partition: {there}")
    return dict(partitions[name or next(iter(partitions))]) if partitions else {}
