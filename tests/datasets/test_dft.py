"""Energies, forces and free atoms of molecules, against PySCF called by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols

from neupol_cli.datasets import dft
from neupol_cli.datasets.solution import NotConverged, OutOfTime
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE

pyscf = pytest.importorskip("pyscf")

SMALL = dft.Settings(basis="gth-szv", spacing=0.4, margin=2.5)
HYDROGEN = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
WATER = Atoms("OH2", [[0, 0, 0.12], [0, 0.76, -0.5], [0.05, -0.74, -0.47]])


def by_hand(atoms: Atoms, settings: dft.Settings) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces (eV/Angstrom), dipole (D)."""
    molecule = pyscf.gto.M(
        atom=[[s, tuple(p)] for s, p in zip(atoms.symbols, atoms.positions / BOHR, strict=True)],
        unit="Bohr", basis=settings.basis, verbose=0,
        pseudo=None if settings.pseudo == "none" else settings.pseudo,
    )  # fmt: skip
    basis = pyscf.df.aug_etb(molecule, 1.6) if molecule._pseudo else None
    method = pyscf.dft.RKS(molecule, xc=settings.xc).density_fit(auxbasis=basis)
    method.grids.level, method.conv_tol = settings.grid_level, 1e-10
    energy = method.kernel() * HARTREE
    gradient = method.nuc_grad_method()
    gradient.grids = pyscf.dft.Grids(molecule)
    gradient.grids.level = 4
    forces = -gradient.kernel() * HARTREE / BOHR
    return energy, forces, method.dip_moment(unit="Debye", verbose=0)


@pytest.mark.parametrize(
    ("atoms", "settings"),
    [
        (WATER, dft.Settings()),
        (HYDROGEN, dft.Settings(basis="cc-pvdz", pseudo="none")),
    ],
)
def test_energy_forces_and_dipole_are_pyscfs(atoms: Atoms, settings: dft.Settings) -> None:
    found = dft.PySCF(settings).solve(atoms, "molecule", False, np.inf)
    energy, forces, dipole = by_hand(atoms, settings)
    assert found.volume is None and found.dipole is not None
    assert found.energy == pytest.approx(energy, rel=0, abs=1e-8)
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.dipole, dipole, rtol=0, atol=1e-8)
    assert found.electrons == sum(found.valence[z] for z in atoms.numbers)


def test_hydrogens_pseudopotential_has_no_projector_and_its_energy_is_pyscfs() -> None:
    molecule = pyscf.gto.M(
        atom=[[1, tuple(p)] for p in HYDROGEN.positions / BOHR], unit="Bohr", verbose=0,
        basis=SMALL.basis, pseudo=SMALL.pseudo,
    )  # fmt: skip
    method = pyscf.dft.RKS(molecule, xc="pbe").density_fit(auxbasis=pyscf.df.aug_etb(molecule, 1.6))
    method.grids.level, method.conv_tol = 2, 1e-10
    energy = dft.PySCF(SMALL).solve(HYDROGEN, "H2", False, np.inf).energy
    assert energy == pytest.approx(method.kernel() * HARTREE, rel=0, abs=1e-8)


@pytest.mark.parametrize(
    ("atoms", "places"),
    [(WATER, ((0, 2), (1, 1), (2, 0))), (HYDROGEN, ((1, 2),))],
)
def test_forces_are_the_negative_gradient_of_the_energy(
    atoms: Atoms, places: tuple[tuple[int, int], ...]
) -> None:
    engine, step = dft.PySCF(SMALL), 0.004
    forces = engine.solve(atoms, "molecule", False, np.inf).forces
    for atom, axis in places:
        slope = 0.0
        for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):  # to the fourth order
            moved = atoms.copy()
            moved.positions[atom, axis] += steps * step
            energy = engine.solve(moved, "molecule", False, np.inf).energy
            slope -= weight * energy / (12 * step)
        # The grid moves with its atoms, which the formula of the forces leaves out.
        assert forces[atom, axis] == pytest.approx(slope, rel=0, abs=5e-3)
    assert np.abs(forces).max() > 0.3


def test_a_density_goes_with_the_same_labels() -> None:
    engine = dft.PySCF(SMALL)
    with_density = engine.solve(HYDROGEN, "H2", True, np.inf)
    assert with_density.volume is not None
    assert with_density.volume.electrons == pytest.approx(2.0, rel=0, abs=0.05)
    assert with_density.energy == engine.solve(HYDROGEN, "H2", False, np.inf).energy


NITRENE = Atoms("NH", [[0, 0, 0], [0, 0, 1.04]])  # a triplet


@pytest.mark.parametrize("stated", [{"multiplicity": 3}, {"spin": 2}, {"spin": -2}])
def test_a_spin_density_is_majority_minus_minority(stated: dict[str, int]) -> None:
    """Whatever sign was stated; its integral is 2S, the total one's the valence electrons."""
    atoms = NITRENE.copy()
    atoms.info |= stated
    settings = replace(SMALL, spacing=0.2)
    volume = dft.PySCF(settings).solve(atoms, "NH", True, np.inf).volume
    assert volume is not None and volume.spin is not None
    assert volume.unpaired == pytest.approx(2.0, rel=0, abs=0.01)
    assert volume.electrons == pytest.approx(6.0, rel=0, abs=0.1)
    molecule = pyscf.gto.M(
        atom=[[s, tuple(p)] for s, p in zip(atoms.symbols, atoms.positions / BOHR, strict=True)],
        unit="Bohr", basis=SMALL.basis, pseudo=SMALL.pseudo, spin=2, verbose=0,
    )  # fmt: skip
    method = pyscf.dft.UKS(molecule, xc="pbe").density_fit(auxbasis=pyscf.df.aug_etb(molecule, 1.6))
    method.grids.level, method.conv_tol = 2, 1e-10
    method.kernel()
    orbitals = pyscf.dft.numint.eval_ao(molecule, volume.grid.points() / BOHR)
    up, down = (
        pyscf.dft.numint.eval_rho(molecule, orbitals, matrix) / BOHR**3
        for matrix in method.make_rdm1()
    )
    np.testing.assert_allclose(volume.spin.ravel(), up - down, rtol=0, atol=1e-5)
    np.testing.assert_allclose(volume.values.ravel(), up + down, rtol=0, atol=1e-5)


def test_exchange_of_up_and_down_turns_the_spin_density_and_leaves_the_total() -> None:
    atoms = NITRENE.copy()
    atoms.info["multiplicity"] = 3
    method = dft.converged(atoms, SMALL, "NH", np.inf)
    density = dft._density(method, atoms, SMALL, np.inf)
    up, down = method.make_rdm1()
    method.make_rdm1 = lambda: np.stack([down, up])
    exchanged = dft._density(method, atoms, SMALL, np.inf)
    assert density.spin is not None and exchanged.spin is not None
    np.testing.assert_array_equal(exchanged.spin, -density.spin)
    np.testing.assert_array_equal(exchanged.values, density.values)
    assert np.abs(density.spin).max() > 0.1


@pytest.mark.parametrize(
    ("number", "unpaired", "tolerance"),
    # Carbon's two p electrons point somewhere, which the grid does not see quite the same.
    [(1, 1, 1e-7), (6, 2, 2e-3), (7, 3, 1e-7), (10, 0, 1e-7)],
)
def test_free_atoms_have_the_multiplicity_of_their_ground_state(
    number: int, unpaired: int, tolerance: float
) -> None:
    molecule = pyscf.gto.M(
        atom=[[chemical_symbols[number], (0, 0, 0)]], basis=SMALL.basis, pseudo=SMALL.pseudo,
        spin=unpaired, verbose=0,
    )  # fmt: skip
    kind = pyscf.dft.UKS if unpaired else pyscf.dft.RKS
    method = kind(molecule, xc="pbe").density_fit(auxbasis=pyscf.df.aug_etb(molecule, 1.6))
    method.grids.level, method.conv_tol = 2, 1e-10
    energy = dft.PySCF(SMALL).free_atom(number, np.inf)
    assert energy == pytest.approx(method.kernel() * HARTREE, rel=0, abs=tolerance)


def test_what_did_not_converge_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyscf.dft.rks.RKS, "max_cycle", 1)
    with pytest.raises(NotConverged, match="water: the SCF did not converge in 1 cycles"):
        dft.PySCF(SMALL).solve(WATER, "water", False, np.inf)


def test_time_ends_and_crystals_are_for_the_other_program() -> None:
    engine = dft.PySCF(SMALL)
    with pytest.raises(OutOfTime):
        engine.solve(WATER, "water", False, 0.0)
    with pytest.raises(InputError, match="--engine cp2k"):
        engine.solve(Atoms("H", cell=[3, 3, 3], pbc=True), "H", False, np.inf)


def test_the_grid_is_finer_where_core_electrons_are() -> None:
    assert (SMALL.grid_level, dft.Settings(pseudo="none").grid_level) == (2, 3)
