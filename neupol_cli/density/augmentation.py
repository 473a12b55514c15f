"""PAW augmentation occupancies of an earlier CHGCAR for a predicted density of the same atoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.density import matching
from neupol_cli.errors import InputError
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume
from neupol_cli.io.volumetric.augmentation import Augmentation

MOVED = 1.0  # Angstrom: so far an atom may have gone since


def read(path: Path, grid: Grid, atoms: Atoms, spin: bool) -> Augmentation:
    """The occupancies in a file, in the order of a structure's atoms.

    Args:
        path: a CHGCAR.
        grid: of the predicted density, which fills the cell that it is to be written in.
        atoms: the structure.
        spin: whether the predicted density has one.

    Returns:
        One set of occupancies an atom, and with spin a second one.

    Raises:
        InputError: no occupancies, complex ones, spin on one side only, or other atoms.
    """
    earlier = volumetric.read(path)
    found = _occupancies(earlier, str(path))
    if spin and earlier.spin is None:
        raise InputError(f"{path}: is of a run without spin, the model's densities have one")
    if earlier.spin is not None and not spin:
        raise InputError(f"{path}: is of a run with spin, the model's densities have none")
    return found.in_order(counterparts(grid, atoms, earlier, str(path)))


def _occupancies(earlier: Volume, name: str) -> Augmentation:
    found = earlier.augmentation
    if found is None or (earlier.spin is not None and found.spin is None):
        raise InputError(f"{name}: holds no PAW augmentation occupancies, or not all of them")
    if not found.whole:
        raise InputError(f"{name}: complex augmentation occupancies are not supported")
    return found


def counterparts(grid: Grid, atoms: Atoms, earlier: Volume, name: str) -> list[int]:
    """For every atom the nearest one of its element in an earlier structure.

    Args:
        grid: its box is the cell.
        atoms: the structure.
        earlier: the same atoms in any order, in a cell that may have changed a little.
        name: of the earlier structure's file, for messages.

    Returns:
        A permutation of 0 .. A - 1.

    Raises:
        InputError: other elements or counts; an atom without one of its own within `MOVED`.
    """
    numbers, formula = earlier.atoms.numbers, earlier.atoms.get_chemical_formula()
    if not np.array_equal(np.sort(atoms.numbers), np.sort(numbers)):
        ours = atoms.get_chemical_formula()
        raise InputError(f"{name}: is of {formula}, the structure is {ours}")
    apart = _fractions(grid, atoms)[:, None] - _fractions(earlier.grid, earlier.atoms)
    distances = np.linalg.norm((apart - np.round(apart)) @ grid.box, axis=-1)  # (A, A)
    ions = matching.counterparts(distances, atoms.numbers, numbers, MOVED)
    if len(ions) < len(atoms):
        raise InputError(
            f"{name}: atom {len(ions) + 1} of the structure has no counterpart of its own "
            f"within {MOVED:g} Angstrom there, as occupancies of the same atoms need"
        )
    return ions


def _fractions(grid: Grid, atoms: Atoms) -> np.ndarray:
    """Places in the grid's box, (A, 3)."""
    return np.asarray((atoms.positions - grid.origin) @ np.linalg.inv(grid.box))
