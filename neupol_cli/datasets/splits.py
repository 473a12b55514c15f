"""Partitions: structures divided into the splits to train on, to validate on and to test on.

They come from sizes and a seed, or from the files that published data sets have beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import files
from neupol_cli.io.npz_archive import opened

SPLITS = ("train", "valid", "test")  # in the order of their use
Partition = dict[str, np.ndarray]  # the indices of each split
Wanted = tuple[int, ...] | Partition  # sizes of the splits, or their indices
# What split files call them: those of DeepDFT and ChargE3Net, TorchMD-NET and SchNetPack.
NAMES = {
    "train": ("train", "idx_train", "train_idx"),
    "valid": ("validation", "valid", "val", "idx_val", "val_idx"),
    "test": ("test", "idx_test", "test_idx"),
}


def shuffled(size: int, counts: Wanted, seed: int) -> Partition:
    """Cut one random permutation of ``size`` structures into train, valid and test.

    ``counts`` are the sizes (train, valid[, test]); without test it is all the rest. The
    permutation is numpy's ``RandomState(seed).permutation``, as published QM9 results use it
    (EGNN: seed 0). Indices are taken as they are.

    Raises:
        UsageError: more structures are asked for than there are.
        InputError: an index is that of no structure.
    """
    if isinstance(counts, dict):
        return placed(counts, range(size), size)
    if len(counts) not in (2, 3) or min(counts) < 0 or sum(counts) > size or counts[0] < 1:
        wanted = ",".join(map(str, counts))
        raise UsageError(f"cannot split {size} structures as {wanted}: give TRAIN,VALID[,TEST]")
    if len(counts) == 2:
        counts = (*counts, size - sum(counts))
    order = np.random.RandomState(seed).permutation(size)
    train, valid, test, _ = np.split(order, np.cumsum(counts))
    return {"train": train, "valid": valid, "test": test}


def torchmd(size: int, counts: tuple[int, int], seed: int) -> Partition:
    """The same as TorchMD-NET and Equiformer draw it: by numpy's ``default_rng``; test is the rest.

    The published QM9 partition is that of (110000, 10000) and seed 1.
    """
    order = np.random.default_rng(seed).permutation(np.arange(size))
    return dict(zip(SPLITS, np.split(order, np.cumsum(counts)), strict=True))


def placed(partition: Partition, places: Sequence[int], size: int) -> Partition:
    """The rows of a partition's structures among those that were kept.

    Args:
        partition: their places among ``size``.
        places: of those that were kept, ascending; the others are left out.
        size: how many there were.

    Raises:
        InputError: an index is that of no structure.
    """
    rows = np.full(size, -1)
    rows[np.asarray(places, int)] = np.arange(len(places))
    for name, indices in partition.items():
        if len(indices) and indices.max() >= size:
            raise InputError(f"the split {name} has an index {indices.max()}, of {size} structures")
    found = {name: rows[indices] for name, indices in partition.items()}
    return {name: indices[indices >= 0] for name, indices in found.items()}


def with_test(own: int, size: int, counts: Wanted | None, seed: int) -> Partition:
    """Split ``own`` structures of which ``size - own`` more, given as test set, follow.

    ``counts`` are (train, valid[, test]) of the own ones. Default: 95 % and 5 % where a test set is
    given, else 80 %, 10 % and 10 %.
    """
    if isinstance(counts, dict):
        if size > own:
            raise UsageError("a split file says which structures are tested on: leave out --test")
        return shuffled(own, counts, seed)
    if counts is None:
        valid = own // (20 if size > own else 10) or min(1, own - 1)
        counts = (own - valid if size > own else max(1, own - 2 * valid), valid)
    if size == own:
        return shuffled(own, counts, seed)
    return {**shuffled(own, (*counts[:2], 0), seed), "test": np.arange(own, size)}


def wanted(text: str | None, file: Path | None) -> Wanted | None:
    """What ``--partition`` or ``--split-file`` ask for; None without either.

    Raises:
        UsageError: both, or sizes that are none.
        InputError: the file cannot be read, or is no split file.
    """
    if text and file:
        raise UsageError("choose one of --partition and --split-file")
    return parse(text) if text else from_file(file) if file else None


def from_file(path: Path) -> Partition:
    """The indices of each split: a JSON object of lists, or an ``.npz`` of arrays.

    Indices count the structures in the order in which they are read, from 0.

    Raises:
        InputError: it is damaged, or its lists are not indices without repeats.
    """
    provenance.inputs(path)
    given = _arrays(path) if path.suffix == ".npz" else _lists(path)
    partition: Partition = {}
    for split, names in NAMES.items():
        found = [name for name in names if name in given]
        if len(found) > 1:
            raise InputError(f"{path}: has both {found[0]} and {found[1]}")
        partition[split] = _indices(given[found[0]], f"{path}: {found[0]}") if found else _none()
    joined = np.concatenate(list(partition.values()))
    if not len(joined):
        known = ", ".join(names[0] for names in NAMES.values())
        raise InputError(f"{path}: no split file: it has none of the lists {known}")
    values, counts = np.unique(joined, return_counts=True)
    if len(values) < len(joined):
        raise InputError(f"{path}: the index {values[counts > 1][0]} stands there twice")
    return partition


def _none() -> np.ndarray:
    return np.zeros(0, int)


def _lists(path: Path) -> Mapping[str, object]:
    try:
        with files.reported(path):
            given = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"{path}: no split file: it is no object of lists")
    return given


def _arrays(path: Path) -> Mapping[str, object]:
    with opened(path) as archive:
        return {name: archive[name] for name in archive.files}


def _indices(values: object, where: str) -> np.ndarray:
    try:
        indices = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{where} is no list of indices") from error
    whole = indices.dtype.kind in "iu" or not indices.size
    if indices.ndim != 1 or not whole or (indices.size and indices.min() < 0):
        raise InputError(f"{where} is no list of indices")
    return indices.astype(int)


def parse(text: str) -> tuple[int, ...]:
    """``"800,100"`` is (800, 100); UsageError if these are not two or three numbers."""
    words = text.split(",")
    if len(words) not in (2, 3) or not all(word.strip().isdecimal() for word in words):
        raise UsageError(
            f"--partition {text}: give TRAIN,VALID or TRAIN,VALID,TEST as whole numbers"
        )
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
