"""Copies of structures with their atoms displaced at random: geometries off the minimum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from ase import Atoms


def rattled(
    frames: Iterable[tuple[str, Atoms]], sigma: float, copies: int, seed: int
) -> Iterator[tuple[str, Atoms]]:
    """Displaced copies of every structure, x + sigma * n with n from a normal distribution.

    Structure i has a generator of its own, so that more copies, or more structures behind, leave
    the earlier ones as they were. Atoms that a structure holds fixed stay.

    Args:
        frames: labelled structures; they are not among the copies.
        sigma: standard deviation of each coordinate, Angstrom.
        copies: of each structure.
        seed: of all displacements.
    """
    for index, (label, atoms) in enumerate(frames):
        generator = np.random.default_rng([seed, index])
        for number in range(1, copies + 1):
            moved = atoms.copy()
            shift = sigma * generator.standard_normal(moved.positions.shape)
            moved.set_positions(moved.positions + shift)
            yield f"{label}, copy {number}", moved
