"""Molecules by PySCF: valence electron densities, energies, forces and dipoles.

Kohn-Sham DFT with density fitting and (by default) GTH pseudopotentials, so that the density is
smooth enough for a grid and a CHGCAR.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments

from neupol_cli.datasets.solution import NotConverged, OutOfTime, Solution
from neupol_cli.errors import InputError, NeupolError, UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.charges import state
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Volume, by_spacing

if TYPE_CHECKING:
    from pyscf.dft.rks import RKS
    from pyscf.dft.uks import UKS
    from pyscf.gto import Mole

    Begin = Callable[[RKS | UKS], np.ndarray]

BLOCK = 20_000  # grid points whose orbitals are in memory at once
NO_PSEUDO = "none"
PROJECTORS = 4  # where PySCF's record of a GTH pseudopotential counts them
# PySCF's grids of atoms, from 0 to 9. Valence densities are smooth: 2 keeps a molecule's energy to
# 0.02 meV an atom; forces beside fluorine need 4 (benchmarks/results/dft_settings.md).
GRID_LEVEL, ALL_ELECTRON_GRID_LEVEL, FORCES_GRID_LEVEL = 2, 3, 4
TOLERANCE = 1e-10  # Hartree, of the SCF; PySCF's own 1e-9 leaves 0.2 meV/Angstrom in forces
# Ratio of neighbouring exponents of the fitting basis: PySCF's own 2 is 0.15 meV an atom and
# 1.2 meV/Angstrom off in CH3F.
RATIO = 1.6
# Up to so many orbitals the integrals of density fitting are kept (1 GB) and not made in every
# cycle: two fifths of the SCF's time.
KEPT = 320


@dataclass(frozen=True)
class Settings:
    """The level of theory and the grid (Angstrom); ``pseudo`` is ``none`` for all electrons."""

    xc: str = "pbe"
    basis: str = "gth-dzvp"
    pseudo: str = "gth-pbe"
    spacing: float = 0.2
    margin: float = 3.6

    @property
    def level(self) -> str:
        """Functional, pseudopotential and basis."""
        return f"{self.xc} / {self.pseudo} / {self.basis}"

    @property
    def grid_level(self) -> int:
        """PySCF's, of the grid that exchange and correlation are integrated on."""
        return ALL_ELECTRON_GRID_LEVEL if self.pseudo.lower() == NO_PSEUDO else GRID_LEVEL

    def __str__(self) -> str:
        return f"{self.level}, density fitting"


def require() -> ModuleType:
    """PySCF, or UsageError that says how to get it."""
    try:
        return importlib.import_module("pyscf")
    except ImportError as trouble:
        raise UsageError("PySCF is not installed: pip install 'neupol[dft]'") from trouble


def in_time(until: float) -> Callable[[object], None]:
    """For PySCF to call in every cycle: OutOfTime once `time.monotonic` is past ``until``."""

    def check(cycle: object) -> None:
        if time.monotonic() > until:
            raise OutOfTime("took longer than the time that was left")

    return check


@contextmanager
def reported(label: str) -> Iterator[None]:
    """Whatever PySCF or its libraries raise within becomes InputError with its label."""
    try:
        yield
    except NeupolError:
        raise
    except Exception as trouble:  # their types are as many as their libraries
        reason = " ".join(f"{type(trouble).__name__}: {trouble}".split())[:200]
        raise InputError(f"{label}: PySCF: {reason}") from trouble


def solve(
    atoms: Atoms, settings: Settings, label: str, until: float = np.inf
) -> tuple[Volume, dict[int, float]]:
    """The density of one molecule, and the charge of each element's ion.

    Charge and multiplicity are those that the structure states (io/charges.py); else it is neutral
    and as low-spin as its electrons allow. Notes: electrons, energy (eV), dipole (D).

    Raises:
        InputError: it is periodic, has elements without basis, or does not converge.
        OutOfTime: when `time.monotonic` passes ``until`` meanwhile.
    """
    with reported(label):
        method = converged(atoms, settings, label, until)
        return _density(method, atoms, settings, until), _valence(method.mol, atoms)


class PySCF:
    """PySCF with the given settings, as `Engine` of solution.py says.

    Args:
        settings: the level of theory, which alone says what the answers are.
        begin: makes the density matrix that a molecule's SCF begins with, else PySCF does.
    """

    def __init__(self, settings: Settings, begin: Begin | None = None) -> None:
        self.settings, self.begin = settings, begin
        self.source = f"PySCF {require().__version__}, {settings}"
        self.method = asdict(settings) | {"program": "pyscf"}

    def solve(self, atoms: Atoms, label: str, density: bool, until: float) -> Solution:
        """Energy, forces and dipole of one molecule; its density where it is wanted."""
        with reported(label):
            method = converged(atoms, self.settings, label, until, self.begin)
            forces = _forces(method)
            in_time(until)({})
            volume = _density(method, atoms, self.settings, until) if density else None
            energy, dipole = float(method.e_tot) * HARTREE, _dipole(method)
        electrons, valence = float(method.mol.nelectron), _valence(method.mol, atoms)
        return Solution(atoms, energy, forces, dipole, electrons, valence, volume)

    def free_atom(self, number: int, until: float) -> float:
        """Energy of an atom, eV, spin-polarised, in its ground state's multiplicity."""
        multiplicity = 1 + round(ground_state_magnetic_moments[number])
        atom = Atoms([number], info={"multiplicity": multiplicity})
        label = f"the free atom of {chemical_symbols[number]}"
        with reported(label):
            return float(converged(atom, self.settings, label, until).e_tot * HARTREE)


def converged(
    atoms: Atoms, settings: Settings, label: str, until: float, begin: Begin | None = None
) -> RKS | UKS:
    """The Kohn-Sham method of a molecule, its SCF done.

    Raises:
        InputError: it is periodic, or ``begin`` has no answer; NotConverged. OutOfTime.
    """
    from pyscf import df, dft

    if atoms.pbc.any():
        raise InputError(
            f"{label}: is periodic; PySCF's densities are made of molecules here, "
            "those of crystals with --engine cp2k"
        )
    molecule = _molecule(atoms, settings)
    basis = df.aug_etb(molecule, RATIO) if molecule._pseudo else None  # else PySCF's tables
    method = (dft.UKS if molecule.spin else dft.RKS)(molecule).density_fit(auxbasis=basis)
    method.xc, method.callback = settings.xc, in_time(until)
    method.grids.level, method.conv_tol = settings.grid_level, TOLERANCE
    if molecule.nao <= KEPT:
        method.with_df.build()
    method.kernel(dm0=None if begin is None else _first(method, begin, label))
    if not method.converged:
        raise NotConverged(f"{label}: the SCF did not converge in {method.max_cycle} cycles")
    return method


def _first(method: RKS | UKS, begin: Begin, label: str) -> np.ndarray:
    """The density matrix to begin with, good enough for DIIS to keep its Fock matrix, too."""
    method.diis_start_cycle = 0
    try:
        return begin(method)
    except InputError as error:
        raise InputError(f"{label}: --start density: {error}") from error


def _forces(method: RKS | UKS) -> np.ndarray:
    """(A, 3) eV/Angstrom, on a finer grid than the SCF's, without what moving grids would add.

    With that they would be the derivative of a coarse grid's energy, whose error is larger than
    theirs (2.6 for 0.4 meV/Angstrom).
    """
    from pyscf.dft import Grids

    gradient = method.nuc_grad_method()
    gradient.grids = Grids(method.mol)
    gradient.grids.level = FORCES_GRID_LEVEL
    return np.asarray(-gradient.kernel() * (HARTREE / BOHR))


def _dipole(method: RKS | UKS) -> np.ndarray:
    """(3,) D."""
    return np.asarray(method.dip_moment(unit="DEBYE", verbose=0))


def _density(method: RKS | UKS, atoms: Atoms, settings: Settings, until: float) -> Volume:
    """On a grid around the molecule; with spin where electrons are unpaired."""
    molecule, matrices = method.mol, np.asarray(method.make_rdm1())
    grid = by_spacing(atoms, settings.spacing, settings.margin)
    pair = matrices if matrices.ndim == 3 else np.stack([matrices / 2, matrices / 2])
    up, down = (_on_grid(molecule, matrix, grid, until) for matrix in pair)
    notes = {
        "electrons": float(molecule.nelectron),
        "energy": float(method.e_tot) * HARTREE,
        "dipole": _dipole(method),
    }
    return Volume(atoms, grid, up + down, up - down if molecule.spin else None, notes)


def _valence(molecule: Mole, atoms: Atoms) -> dict[int, float]:
    """Electrons that a neutral atom of each element brings."""
    charges = zip(atoms.numbers.tolist(), molecule.atom_charges().tolist(), strict=True)
    return {z: float(q) for z, q in charges}


def _molecule(atoms: Atoms, settings: Settings) -> Mole:
    from pyscf import gto

    places = zip(atoms.get_chemical_symbols(), atoms.positions / BOHR, strict=True)
    molecule = gto.Mole(verbose=0, unit="Bohr", basis=settings.basis)
    molecule.atom = [(symbol, tuple(place)) for symbol, place in places]
    if settings.pseudo.lower() != NO_PSEUDO:
        molecule.pseudo = settings.pseudo
    charge, spin = state(atoms)
    molecule.charge, molecule.spin = charge, spin - 1
    return _with_projector(molecule.build())


def _with_projector(molecule: Mole) -> Mole:
    """PySCF's forces want a pseudopotential with a projector, and hydrogen's and helium's have
    none: one of zero strength is added where there is no other."""
    entries = list(molecule._pseudo.values())
    if not any(entry[PROJECTORS] for entry in entries):
        for entry in entries:
            entry[PROJECTORS:] = [1, [1.0, 1, [[0.0]]]]
    return molecule


def _on_grid(molecule: Mole, matrix: np.ndarray, grid: volumetric.Grid, until: float) -> np.ndarray:
    """Density of one density matrix, (n1, n2, n3) e/Angstrom^3."""
    values, check = np.empty(grid.size), in_time(until)
    for start in range(0, grid.size, BLOCK):
        check({})
        points = grid.points(start, min(start + BLOCK, grid.size)) / BOHR
        orbitals = molecule.eval_gto("GTOval", points)  # (P, O)
        values[start : start + BLOCK] = np.einsum("po,po->p", orbitals @ matrix, orbitals)
    return values.reshape(grid.shape) / BOHR**3
