"""A true density beside a predicted one: the same atoms, the same kind of electrons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.density import matching
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume, guesses, plausible

SAME = 0.01  # Angstrom: atoms this close are in the same place
INSIST = "--accept compares all the same"


def read(path: Path, grid: Grid, atoms: Atoms, accept: bool) -> Volume:
    """The reference for a structure on a grid.

    Args:
        path: its file.
        grid: the grid of the prediction, which must be the reference's own.
        atoms: the structure.
        accept: whether the user insists that it is a density.

    Raises:
        UsageError: another grid.
        InputError: other atoms, or values that are no density.
    """
    reference = volumetric.read(path)
    guesses.tell(str(path), reference, (guesses.UNIT,))
    if not grid.same_as(reference.grid):
        raise UsageError("--reference: compares on the reference's grid; leave out the other one")
    check_atoms(atoms, reference.atoms, str(path))
    if not accept:
        check_density(reference, str(path))
    return reference


def check_density(volume: Volume, name: str) -> None:
    """Refuse what cannot be the electron density of its atoms.

    Raises:
        InputError: with the reason.
    """
    reason = plausible.reason_against(volume)
    if reason is not None:
        raise InputError(f"{name}: is no electron density: {reason}; {INSIST}")


def check_convention(reference: Volume, charges: np.ndarray | None, name: str) -> None:
    """Refuse a density of all electrons beside a model of the valence electrons.

    Args:
        reference: the true density.
        charges: (A,) e that the atoms bring in the model's convention, if it says so.
        name: the reference's, for messages.

    Raises:
        InputError: it is one.
    """
    if charges is None:
        return
    expected = float(charges.sum())
    if plausible.all_electron(reference, expected):
        raise InputError(
            f"{name}: holds {reference.electrons:.3f} electrons, all that there are; the model's "
            f"densities are of the {expected:g} valence electrons; {INSIST}"
        )


def check_atoms(atoms: Atoms, others: Atoms, name: str) -> None:
    """Whether two structures are the same, whatever their order and the cells' images.

    Raises:
        InputError: other elements, or other places.
    """
    if not np.array_equal(np.sort(atoms.numbers), np.sort(others.numbers)):
        raise InputError(f"{name}: holds other atoms than the structure")
    distance = _in_order(atoms, others)
    if distance > SAME and len(_matched(atoms, others)) < len(atoms):
        raise InputError(
            f"{name}: its atoms are up to {distance:.2f} Angstrom away from the structure's; "
            "name the reference itself as the structure"
        )


def _in_order(atoms: Atoms, others: Atoms) -> float:
    """The largest distance of an atom and its counterpart in the same order."""
    if not np.array_equal(atoms.numbers, others.numbers):
        return float("inf")
    apart = _nearest_image(atoms, atoms.positions - others.positions)
    return float(np.linalg.norm(apart, axis=-1).max())


def _matched(atoms: Atoms, others: Atoms) -> list[int]:
    """Counterparts in the same places, of all atoms if the structures are the same."""
    apart = _nearest_image(atoms, atoms.positions[:, None] - others.positions)  # (A, A, 3)
    distances = np.linalg.norm(apart, axis=-1)
    return matching.counterparts(distances, atoms.numbers, others.numbers, SAME)


def _nearest_image(atoms: Atoms, vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) less the lattice vectors nearest to them."""
    periodic = np.asarray(atoms.cell.array)[atoms.pbc]  # (k,3)
    if not len(periodic):
        return vectors
    return np.asarray(vectors - np.round(vectors @ np.linalg.pinv(periodic)) @ periodic)
