"""The valence density of a crystal's cell with PySCF: what a network replaces for a crystal.

Gaussian orbitals with GTH pseudopotentials; the Coulomb and exchange-correlation matrices are made
on grids of several spacings (PySCF's multigrid). At the Gamma point alone: it says what a cell of
this size costs, and is the density of a large cell, not of a small one, which needs k-points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.datasets.dft import BLOCK, Settings, in_time, reported
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Grid, Volume, by_spacing

if TYPE_CHECKING:
    from ase import Atoms
    from pyscf.pbc.gto import Cell

PRECISION = 1e-6  # of PySCF's lattice sums; at 1e-5 diamond's energy is wrong by a factor


def solve(atoms: Atoms, settings: Settings, label: str, until: float = np.inf) -> Volume:
    """The density of a cell that is periodic in three directions, closed-shell.

    Args:
        until: the time (`time.monotonic`) at which to give up.

    Raises:
        InputError: what PySCF cannot do or does not converge.
        TemporaryError: when time is over.
    """
    if not atoms.pbc.all():
        raise InputError(f"{label}: is not periodic in three directions; PySCF's cells are")
    with reported(label):
        return _solve(atoms, settings, label, until)


def _solve(atoms: Atoms, settings: Settings, label: str, until: float) -> Volume:
    from pyscf.pbc import dft

    cell = _cell(atoms, settings)
    if cell.nelectron % 2:
        raise InputError(f"{label}: has {cell.nelectron} valence electrons, an odd number")
    method = dft.RKS(cell).multigrid_numint()
    method.xc, method.callback = settings.xc, in_time(until)
    energy = method.kernel()
    if not method.converged:
        raise InputError(f"{label}: the SCF did not converge in {method.max_cycle} cycles")
    grid = by_spacing(atoms, settings.spacing, settings.margin)
    notes = {"electrons": float(cell.nelectron), "energy": float(energy) * HARTREE}
    return Volume(atoms, grid, _on_grid(cell, method.make_rdm1(), grid, until), None, notes)


def _cell(atoms: Atoms, settings: Settings) -> Cell:
    from pyscf.pbc import gto

    places = zip(atoms.get_chemical_symbols(), atoms.positions / BOHR, strict=True)
    cell = gto.Cell(verbose=0, unit="Bohr", basis=settings.basis, pseudo=settings.pseudo)
    cell.atom = [(symbol, tuple(place)) for symbol, place in places]
    cell.a, cell.precision = atoms.cell.array / BOHR, PRECISION
    return cell.build()


def _on_grid(cell: Cell, matrix: np.ndarray, grid: Grid, until: float) -> np.ndarray:
    """Density of a density matrix at Gamma, (n1, n2, n3) e/Angstrom^3."""
    values, check = np.empty(grid.size), in_time(until)
    for start in range(0, grid.size, BLOCK):
        check({})
        points = grid.points(start, min(start + BLOCK, grid.size)) / BOHR
        orbitals = cell.pbc_eval_gto("GTOval", points)  # (P, O)
        density = np.einsum("po,po->p", orbitals @ matrix, orbitals)
        values[start : start + BLOCK] = density.real
    return values.reshape(grid.shape) / BOHR**3
