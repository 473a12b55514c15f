"""SCFs of PySCF that begin from densities: exact ones, predicted ones, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms

from neupol_cli import registry, scf_start
from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Volume, by_spacing
from neupol_cli.potential.electrons import Electrons
from neupol_cli.scf_start import initial_density_matrix

pytest.importorskip("pyscf")
WATER = Atoms("OH2", [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
VALENCE = {"basis": "gth-dzvp", "pseudo": "gth-pbe"}
ALL = {"basis": "6-31g"}
ECP = {"basis": "ccecp-ccpvdz", "ecp": "ccecp"}


def molecule(level: dict[str, str], extra: str = "", **state: Any) -> Any:
    from pyscf import gto

    symbols, places = WATER.get_chemical_symbols(), WATER.positions.tolist()
    text = "; ".join(f"{s} {x} {y} {z}" for s, (x, y, z) in zip(symbols, places, strict=True))
    return gto.M(atom=text + extra, verbose=0, **level, **state)


def method(mol: Any, xc: str = "pbe", is_fitted: bool = True) -> Any:
    from pyscf import dft

    mf = dft.KS(mol, xc=xc)
    if is_fitted:
        mf = mf.density_fit()
    mf.diis_start_cycle = 0
    return mf


def deformation(mf: Any, spacing: float) -> Deformation:
    """Of the density of a converged SCF."""
    grid = by_spacing(WATER, spacing, 3.6)
    orbitals = mf.mol.eval_gto("GTOval", grid.points() / BOHR)
    values = np.einsum("po,po->p", orbitals @ mf.make_rdm1(), orbitals) / BOHR**3
    free = [free_atom(int(z), bool(mf.mol._pseudo)) for z in WATER.numbers]
    return pieces.deformation(Volume(WATER, grid, values.reshape(grid.shape)), free, 0)


@pytest.mark.parametrize(
    ("level", "is_fitted", "error", "most"),
    # A fitted one ends at the coarse grid's error.
    [(VALENCE, False, 1e-6, 4), (ALL, False, 1e-4, 4), (VALENCE, True, 1e-4, 5)],
)
@pytest.mark.parametrize("xc", ["pbe", "lda,vwn"])
def test_an_exact_density_is_where_the_scf_ends(
    level: dict[str, str], is_fitted: bool, error: float, most: int, xc: str
) -> None:
    mf = method(molecule(level), xc, is_fitted)
    energy = mf.kernel()
    cycles = mf.cycles
    start = scf_start.density_matrix(mf, deformation(mf, 0.12))
    assert 0 < mf.energy_tot(start) - energy < error
    assert mf.kernel(dm0=start) == pytest.approx(energy, rel=0, abs=1e-8)
    assert mf.converged
    assert mf.cycles <= most < cycles


@pytest.mark.parametrize("xc", ["pbe", "b3lyp"])
def test_steps_on_a_coarse_grid_bring_it_nearer(xc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mf = method(molecule(VALENCE), xc)
    energy = mf.kernel()
    after = mf.energy_tot(initial_density_matrix(mf)) - energy
    monkeypatch.setattr(scf_start, "STEPS", 0)
    before = mf.energy_tot(initial_density_matrix(mf)) - energy
    assert 0 < after < before / 3


def test_electrons_are_those_of_the_orbitals() -> None:
    mf = method(molecule(VALENCE))
    mf.kernel()
    points = np.random.default_rng(0).uniform(-2.0, 2.0, (300, 3))
    density, volts = Electrons(deformation(mf, 0.1)).at(points)
    orbitals = mf.mol.eval_gto("GTOval_sph", points / BOHR)
    slopes = mf.mol.eval_gto("GTOval_ip_sph", points / BOHR)
    matrix = mf.make_rdm1()
    true = np.einsum("po,po->p", orbitals @ matrix, orbitals) / BOHR**3
    np.testing.assert_allclose(density[0], true, rtol=0, atol=2e-3)
    true = 2 * np.einsum("po,cpo->cp", orbitals @ matrix, slopes) / BOHR**4
    assert np.abs(true).max() > 5
    np.testing.assert_allclose(density[1:], true, rtol=0, atol=0.05)
    integrals = mf.mol.intor("int1e_grids", grids=points / BOHR)
    true = -HARTREE * np.einsum("pij,ij->p", integrals, matrix)
    np.testing.assert_allclose(volts, true, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("level", "xc"),
    [(VALENCE, "pbe"), (VALENCE, "b3lyp"), (ALL, "pbe"), (ALL, "tpss"), (ALL, "hf"), (ECP, "pbe")],
)
def test_a_predicted_density_ends_at_the_same_energy(level: dict[str, str], xc: str) -> None:
    mf = method(molecule(level), xc)
    energy, cycles = mf.kernel(), mf.cycles
    start = initial_density_matrix(mf)
    electrons = float(np.einsum("ij,ji->", start, mf.get_ovlp()))
    assert electrons == pytest.approx(mf.mol.nelectron, rel=0, abs=1e-9)
    assert 0 < mf.energy_tot(start) - energy < 0.02
    assert mf.kernel(dm0=start) == pytest.approx(energy, rel=0, abs=1e-8)
    assert mf.converged
    assert mf.cycles < cycles


@pytest.mark.parametrize(("charge", "spin"), [(1, 1), (0, 2), (-1, 1)])
def test_ions_and_open_shells_have_their_electrons(charge: int, spin: int) -> None:
    mf = method(molecule(VALENCE, charge=charge, spin=spin))
    start = initial_density_matrix(mf)
    electrons = np.einsum("sij,ji->s", start, mf.get_ovlp())
    np.testing.assert_allclose(electrons, mf.mol.nelec, rtol=0, atol=1e-9)
    assert electrons[0] - electrons[1] == pytest.approx(spin, rel=0, abs=1e-9)
    mf.kernel(dm0=start)
    begun = mf.e_tot
    assert mf.converged
    assert begun == pytest.approx(mf.kernel(), rel=0, abs=1e-7)


def test_restricted_open_shells_and_symmetry() -> None:
    from pyscf import scf

    mf = scf.ROHF(molecule(ALL, charge=1, spin=1, symmetry=True))
    start = initial_density_matrix(mf)
    electrons = np.einsum("sij,ji->s", start, mf.get_ovlp())
    np.testing.assert_allclose(electrons, mf.mol.nelec, rtol=0, atol=1e-9)
    energy = mf.kernel(dm0=start)
    assert mf.converged
    assert energy == pytest.approx(mf.kernel(), rel=0, abs=1e-8)


def test_ghosts_are_no_atoms() -> None:
    model = registry.load_density("density")
    ghost = scf_start.predicted(molecule(ALL, "; ghost-O 3 0 0"), model)
    plain = scf_start.predicted(molecule(ALL), model)
    assert len(ghost.atoms) == 3
    np.testing.assert_array_equal(ghost.values, plain.values)
    assert [atom.electrons for atom in ghost.free] == [8, 1, 1]


def test_elements_that_the_model_does_not_know_are_refused() -> None:
    from pyscf import gto

    mf = method(gto.M(atom="Na 0 0 0; Cl 0 0 2.36", basis="6-31g", verbose=0))
    with pytest.raises(InputError, match="Na"):
        initial_density_matrix(mf)


def test_other_kinds_of_scf_are_refused() -> None:
    from pyscf import scf
    from pyscf.pbc import dft, gto

    with pytest.raises(InputError, match="GHF does not begin"):
        initial_density_matrix(scf.GHF(molecule(ALL)))
    cell = gto.M(a=np.eye(3) * 6, atom="He 3 3 3", verbose=0, **VALENCE)
    with pytest.raises(InputError, match="is periodic"):
        initial_density_matrix(dft.RKS(cell))
