"""Displaced copies: seeded, independent of each other, atoms that are held stay."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from neupol_cli.datasets.rattled import rattled

FRAMES = [(f"H{n}", Atoms(f"H{n}", np.arange(3.0 * n).reshape(n, 3))) for n in (2, 3)]


def shifts(sigma: float, copies: int, seed: int, frames: list = FRAMES) -> list[np.ndarray]:
    starts = [atoms.positions for _, atoms in frames for _ in range(copies)]
    moved = [atoms.positions for _, atoms in rattled(frames, sigma, copies, seed)]
    return [after - before for after, before in zip(moved, starts, strict=True)]


def test_the_same_seed_is_the_same_geometries_and_more_copies_keep_the_first() -> None:
    first, again, more = shifts(0.1, 2, 7), shifts(0.1, 2, 7), shifts(0.1, 3, 7)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(first, [*more[:2], *more[3:5]], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(first[0], first[1]) and not np.allclose(first[0], first[2][:2])
    assert not np.allclose(first[0], shifts(0.1, 2, 8)[0])
    labels = [label for label, _ in rattled(FRAMES, 0.1, 2, 7)]
    assert labels == ["H2, copy 1", "H2, copy 2", "H3, copy 1", "H3, copy 2"]


def test_displacements_have_the_width_that_was_asked_for() -> None:
    many = np.concatenate([s.ravel() for s in shifts(0.05, 4000, 0)])
    assert abs(many.std() - 0.05) < 0.0005 and abs(many.mean()) < 0.001


def test_atoms_that_are_held_stay() -> None:
    held = Atoms("H2", [[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([0]), info={"charge": 1})
    ((_, moved),) = rattled([("H2", held)], 0.1, 1, 0)
    assert not moved.positions[0].any() and (moved.positions[1] != [0, 0, 1]).all()
    assert moved.info == {"charge": 1} and (held.positions[1] == [0, 0, 1]).all()
