"""Atoms that a file says stay where they are, as constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from ase.constraints import FixAtoms, FixCartesian


def hold(atoms: Atoms, fixed: np.ndarray) -> None:
    """Constrains a structure.

    Args:
        atoms: the structure.
        fixed: (A,) of whole atoms, or (A, 3) of their coordinates.
    """
    from ase.constraints import FixAtoms, FixCartesian

    coordinates = np.broadcast_to(fixed.reshape(len(atoms), -1), (len(atoms), 3))
    whole = coordinates.all(axis=1)
    held: list[FixAtoms | FixCartesian] = [FixAtoms(mask=whole)] if whole.any() else []
    for index in np.flatnonzero(coordinates.any(axis=1) & ~whole):
        held.append(FixCartesian(int(index), mask=coordinates[index]))
    if held:
        atoms.set_constraint(held)
