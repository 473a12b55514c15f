"""The potential of a free atom: its nucleus, or the core of its pseudopotential, and its electrons.

With the electrons' density rho(r) and Q(r) = int_0^r 4 pi s^2 rho ds of them within r,

    v(r) = v_core(r) - Q(r) / r - int_r^oo 4 pi s rho ds,

where v_core = Z / r for a nucleus with all its electrons. The local part of a GTH pseudopotential
(Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703, 1996) is at long range that of a Gaussian
charge, and v_core = Z erf(r / (sqrt(2) r_loc)) / r with Z valence electrons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from scipy.integrate import cumulative_simpson
from scipy.special import erf

from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Piece, Surroundings, blocks, corners, points_of
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.workers import in_order
from neupol_cli.potential.convolution import COULOMB

SOME = 2000  # points that are looked at together, when they are on no grid

# r_loc in bohr of the GTH-PBE pseudopotentials (Krack, Theor. Chem. Acc. 114, 145, 2005; CP2K's
# GTH_POTENTIALS), of each element the one with as many electrons as its free atom here.
CORE_RADII = {
    "H": 0.2, "He": 0.2, "Li": 0.4, "Be": 0.325, "B": 0.41899145, "C": 0.33847124, "N": 0.28379051,
    "O": 0.2445543, "F": 0.21492959, "Ne": 0.19, "Na": 0.23652322, "Mg": 0.19275787, "Al": 0.45,
    "Si": 0.44, "P": 0.43, "S": 0.42, "Cl": 0.41, "Ar": 0.4, "K": 0.4, "Ca": 0.39, "Sc": 0.385,
    "Ti": 0.38, "V": 0.375, "Cr": 0.37, "Mn": 0.365, "Fe": 0.36, "Co": 0.355, "Ni": 0.35,
    "Cu": 0.53, "Zn": 0.51, "Ga": 0.49, "Ge": 0.54, "As": 0.52, "Se": 0.51, "Br": 0.5, "Kr": 0.5,
    "Rb": 0.49, "Sr": 0.48, "Y": 0.475, "Zr": 0.47, "Nb": 0.46, "Mo": 0.43, "Tc": 0.43, "Ru": 0.43,
    "Rh": 0.42, "Pd": 0.41, "Ag": 0.57, "Cd": 0.55, "In": 0.53, "Sn": 0.605, "Sb": 0.59,
    "Te": 0.575, "I": 0.56, "Xe": 0.56, "Cs": 0.54, "Ba": 0.54, "Hf": 0.56, "Ta": 0.55, "W": 0.54,
    "Re": 0.53, "Os": 0.52, "Ir": 0.51, "Pt": 0.5, "Au": 0.59, "Hg": 0.57, "Tl": 0.55,
    "Pb": 0.6175, "Bi": 0.605, "Po": 0.5925, "At": 0.58, "Rn": 0.57,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class NeutralAtom:
    """A free atom's potential, which vanishes where its density does.

    Attributes:
        number: its atomic number.
        radii: (K,) Angstrom, ascending, the first one zero.
        volts: (K,) the potential there; up to the second radius of a nucleus it is constant.
        integral: of the potential over all space, V Angstrom^3.
    """

    number: int
    radii: np.ndarray
    volts: np.ndarray
    integral: float

    def at(self, distances: np.ndarray) -> np.ndarray:
        """V at distances in Angstrom, of any shape."""
        return np.interp(distances, self.radii, self.volts, right=0.0)


@cache
def neutral_atom(free: FreeAtom) -> NeutralAtom:
    """The potential of a free atom."""
    radii, inside, outer = _shells(free)
    core = _core_radius(free)
    volts = free.electrons * _core(radii, core) - (inside / radii + outer)
    middle = volts[0]
    if core > 0.0:
        electrons = outer[0] + 1.5 * inside[0] / radii[0]
        middle = free.electrons * np.sqrt(2 / np.pi) / core - electrons
    radii, volts = np.append(0.0, radii), np.append(middle, volts)
    second = free.moment(2) - 3 * core**2 * free.electrons  # of the charge, less the core's
    return NeutralAtom(free.number, radii, COULOMB * volts, COULOMB * 2 * np.pi / 3 * second)


@cache
def screening(free: FreeAtom) -> tuple[np.ndarray, np.ndarray]:
    """The potential of a free atom's electrons without its core.

    Returns:
        Radii (K,) in Angstrom, the first one zero, and r times the potential there, e; from the
        last radius on that is the number of electrons.
    """
    radii, inside, outer = _shells(free)
    return np.append(0.0, radii), np.append(0.0, inside + radii * outer)


def _shells(free: FreeAtom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radii (K,), electrons inside of each, and the potential of those outside, e/Angstrom."""
    radii = free.radii[1:-1]  # equal steps of ln r
    density = free.density(radii)
    inside = _within(radii, density)
    scale = free.electrons / inside[-1]  # of what the integration itself loses
    outside = 4 * np.pi * _integral(radii, radii**2 * density)
    return radii, scale * inside, scale * (outside[-1] - outside)


def _core_radius(free: FreeAtom) -> float:
    """r_loc in Angstrom; zero of a nucleus that is a point."""
    return CORE_RADII[chemical_symbols[free.number]] * BOHR if free.is_valence else 0.0


def _core(radii: np.ndarray, core: float) -> np.ndarray:
    """The potential of a unit charge, 1/Angstrom."""
    return np.asarray(1.0 / radii if core == 0.0 else erf(radii / (np.sqrt(2) * core)) / radii)


def _within(radii: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Electrons (K,) inside of each radius."""
    first = 4 * np.pi / 3 * radii[0] ** 3 * density[0]
    return first + 4 * np.pi * _integral(radii, radii**3 * density)


def _integral(radii: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of values d ln r from the first radius to each, (K,)."""
    step = float(np.log(radii[1] / radii[0]))
    return np.asarray(cumulative_simpson(values, dx=step, initial=0.0))


class Superposition:
    """The potential of free atoms, all together.

    Args:
        atoms: (A) where they are.
        free: A free atoms.
    """

    def __init__(self, atoms: Atoms, free: Sequence[FreeAtom]) -> None:
        self.atoms, self.reach = atoms, max(atom.radius for atom in free)
        self.neutral = [neutral_atom(atom) for atom in free]

    @property
    def integral(self) -> float:
        """Over all space, or in a crystal over a cell, V Angstrom^3."""
        return sum(atom.integral for atom in self.neutral)

    def on_grid(self, grid: Grid) -> np.ndarray:
        """V on a grid, (n1, n2, n3)."""
        around = Surroundings(self.atoms, self.reach, corners(grid))
        pieces = list(blocks(grid))
        points = (points_of(grid, block) for block in pieces)
        values = np.empty(grid.shape)
        for block, sums in zip(pieces, self._sums(around, points), strict=True):
            values[block] = sums.reshape(values[block].shape)
        return values

    def at(self, points: np.ndarray) -> np.ndarray:
        """V (P,) at points (P, 3) Angstrom."""
        sides = zip(points.min(axis=0), points.max(axis=0), strict=True)
        around = Surroundings(self.atoms, self.reach, np.array(list(product(*sides))))
        some = (points[start : start + SOME] for start in range(0, len(points), SOME))
        return np.concatenate(list(self._sums(around, some)))

    def _sums(self, around: Surroundings, groups: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """V (P,) at each group of points (P, 3)."""

        def of_group(points: np.ndarray) -> np.ndarray:
            return self._sum(around.piece(points, np.zeros(len(points)), None))

        return in_order(of_group, groups)

    def _sum(self, piece: Piece) -> np.ndarray:
        """V (P,) at a piece's points."""
        distances = piece.distances()  # (G, P)
        kinds = np.array([self.neutral[owner].number for owner in piece.owners])
        total = np.zeros(distances.shape[1])
        for number in np.unique(kinds):
            rows = kinds == number
            total += self.neutral[piece.owners[rows.argmax()]].at(distances[rows]).sum(axis=0)
        return total
