"""Whether a grid holds the whole density of its atoms."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from neupol_cli.io.volumetric.grid import Grid

ROOM = 2.0  # Angstrom around atoms, towards every face that is not repeated


def fills_cell(grid: Grid, atoms: Atoms) -> bool:
    """Whether the sum over the grid is that of all electrons: in a crystal, of one cell.

    A molecule's grid must leave room around its atoms: within ROOM of them are 99.7 % of the
    valence electrons of water, within 1 Angstrom 94 %.
    """
    return shortfall(grid, atoms) is None


def shortfall(grid: Grid, atoms: Atoms) -> str | None:
    """Why the grid holds a part of the density only; None where it holds all of it."""
    if atoms.pbc.all():
        cell = abs(float(np.linalg.det(atoms.cell.array)))
        share = grid.size * grid.element / cell
        return None if abs(share - 1.0) < 1e-4 else f"it fills {100 * share:.4g} % of the cell"
    apart = np.abs(grid.box - np.asarray(atoms.cell.array))[atoms.pbc]
    if apart.size and apart.max() > 1e-3:
        return "its box is not the cell along the periodic directions"
    inverse = np.linalg.inv(grid.box)
    fractions = (atoms.positions - grid.origin) @ inverse  # (A, 3)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)  # (3,) Angstrom from face to face
    room = (np.minimum(fractions, 1.0 - fractions) * heights)[:, ~atoms.pbc].min(axis=1)
    if room.min() > ROOM - 1e-6:
        return None
    atom = int(room.argmin()) + 1
    if room.min() < 0.0:
        return f"atom {atom} is {-room.min():.2f} Angstrom outside of it"
    return f"atom {atom} is {room.min():.2f} Angstrom from its face"
