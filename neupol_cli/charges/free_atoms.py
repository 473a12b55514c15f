"""Densities of free atoms, spherically averaged, by which a density is shared out.

The table (benchmarks/free_atoms.py makes it) has PBE atoms of two kinds: the valence electrons of
GTH pseudopotentials, as in the bundled model's densities, and all electrons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from neupol_cli.errors import InputError

ALL = 0  # in place of the number of valence electrons
FINE = 4000  # nodes between which the density's logarithm is taken for a straight line
FAR = 1000.0  # Angstrom: nothing is farther
TAIL = 1e-12  # e/Angstrom^3: from here on a straight line
NOTHING = 1e-8  # e/Angstrom^3: where an atom ends
LEVELS = {True: "PBE/GTH valence densities", False: "PBE densities of all electrons"}


@dataclass(frozen=True, eq=False)
class FreeAtom:
    """A spherical atom.

    Attributes:
        number: its atomic number.
        is_valence: whether its core electrons are left out (hydrogen has none to leave out).
        electrons: how many are in its density.
        radii: (K,) Angstrom, ascending, the first one zero.
        logarithms: (K,) of the density in e/Angstrom^3 there.
    """

    number: int
    is_valence: bool
    electrons: float
    radii: np.ndarray
    logarithms: np.ndarray

    def density(self, distances: np.ndarray) -> np.ndarray:
        """e/Angstrom^3 at distances in Angstrom, of any shape."""
        return np.asarray(np.exp(np.interp(distances, self.radii, self.logarithms)))

    @cached_property
    def radius(self) -> float:
        """Where the density becomes NOTHING, Angstrom."""
        inside = self.logarithms > np.log(NOTHING)
        return float(self.radii[np.flatnonzero(inside)[-1] + 1])

    @cached_property
    def volume(self) -> float:
        """Integral of density times r^3, e Angstrom^3."""
        return self.moment(3)

    def moment(self, power: int) -> float:
        """Integral of density times r^power, e Angstrom^power."""
        nodes = self.radii[1:-1]  # equal steps of ln r
        step = np.log(nodes[1] / nodes[0])
        return float(4 * np.pi * step * (self.density(nodes) * nodes ** (3 + power)).sum())


@dataclass(frozen=True, eq=False)
class _Table:
    """What the file holds: a row an atom."""

    radii: np.ndarray  # (K,) Angstrom
    numbers: np.ndarray  # (N,)
    valence: np.ndarray  # (N,), ALL for all electrons
    log_density: np.ndarray  # (N, K)

    def row(self, number: int, is_valence: bool) -> int | None:
        """Where an element's atom is, if it is there."""
        rows = np.flatnonzero((self.numbers == number) & ((self.valence != ALL) == is_valence))
        return int(rows[0]) if len(rows) else None


@cache
def _table() -> _Table:
    with np.load(Path(__file__).with_name("free_atoms.npz")) as file:
        return _Table(**{name: file[name] for name in file})


@cache
def free_atom(number: int, is_valence: bool) -> FreeAtom:
    """The free atom of an element.

    Args:
        number: the atomic number.
        is_valence: its valence electrons only.

    Raises:
        InputError: the table has none.
    """
    table = _table()
    row = table.row(number, is_valence)
    if row is None:
        raise InputError(
            f"there is no free atom of {chemical_symbols[number]} among the {LEVELS[is_valence]}"
        )
    electrons = float(table.valence[row]) if is_valence else float(number)
    nodes, logarithms = _refined(table.radii, table.log_density[row].astype(np.float64))
    atom = FreeAtom(number, is_valence, electrons, nodes, logarithms)
    # What the table's few nodes lose is put back, so that charges add up.
    return replace(atom, logarithms=logarithms + np.log(electrons / atom.moment(0)))


def _refined(radii: np.ndarray, logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Many nodes from few, down to the nucleus, where an atom of all electrons has a cusp, and far
    out, where its logarithm goes on as a straight line."""
    from scipy.interpolate import CubicSpline

    kept = logarithms > np.log(TAIL)
    radii, logarithms = radii[kept], logarithms[kept]
    nodes = np.geomspace(radii[0], radii[-1], FINE)
    values = CubicSpline(np.log(radii), logarithms)(np.log(nodes))
    first = values[0] - nodes[0] * (values[1] - values[0]) / (nodes[1] - nodes[0])
    slope = (values[-1] - values[-2]) / (nodes[-1] - nodes[-2])
    last = values[-1] + slope * (FAR - nodes[-1])
    return np.concatenate([[0.0], nodes, [FAR]]), np.concatenate([[first], values, [last]])


def of_model(numbers: Sequence[int], valence: Mapping[int, float]) -> list[FreeAtom]:
    """The free atoms of a model's convention.

    Args:
        numbers: atomic numbers of a structure.
        valence: electrons that each element brings in the model's densities.

    Raises:
        InputError: the table has none with so many electrons.
    """
    is_valence = any(electrons < number for number, electrons in valence.items())
    atoms = [free_atom(int(number), is_valence) for number in numbers]
    for atom in atoms:
        if atom.electrons != valence[atom.number]:
            raise InputError(
                f"the model's {chemical_symbols[atom.number]} brings {valence[atom.number]:g} "
                f"electrons, the free atom here {atom.electrons:g}"
            )
    return atoms


def conventions(numbers: Sequence[int]) -> list[list[FreeAtom]]:
    """The free atoms of a structure by valence electrons and by all electrons, as far as the table
    has them."""
    table = _table()
    return [
        [free_atom(number, is_valence) for number in numbers]
        for is_valence in (True, False)
        if all(table.row(number, is_valence) is not None for number in numbers)
    ]


def level(atoms: Sequence[FreeAtom]) -> str:
    """What the atoms are, in words."""
    return LEVELS[atoms[0].is_valence]
