"""The potential of water's density beside PySCF's integrals over the same density, and of cells."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from scipy.special import erf

from neupol_cli.charges import pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE, KCALMOL
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing
from neupol_cli.potential.convolution import COULOMB
from neupol_cli.potential.field import Field
from neupol_cli.potential.multipoles import multipoles
from neupol_cli.potential.neutral_atoms import CORE_RADII

WATER = Atoms("OH2", [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
VALENCE, ALL = ("gth-dzvp", "gth-pbe"), ("cc-pvdz", None)  # basis, pseudopotential
needs_pyscf = pytest.mark.skipif(
    importlib.util.find_spec("pyscf") is None, reason="PySCF is not installed"
)


@cache
def solved(level: tuple[str, str | None]) -> Any:
    """PySCF's PBE of water."""
    from pyscf import dft, gto

    places = [(s, tuple(p)) for s, p in zip(WATER.symbols, WATER.positions / BOHR, strict=True)]
    molecule = gto.M(atom=places, unit="Bohr", basis=level[0], pseudo=level[1], verbose=0)
    method = dft.RKS(molecule, xc="pbe").density_fit()
    method.kernel()
    assert method.converged
    return method


def density(level: tuple[str, str | None], spacing: float) -> Deformation:
    grid = by_spacing(WATER, spacing, 3.6)
    orbitals = solved(level).mol.eval_gto("GTOval", grid.points() / BOHR)
    values = np.einsum("po,po->p", orbitals @ solved(level).make_rdm1(), orbitals) / BOHR**3
    free = [free_atom(int(number), level == VALENCE) for number in WATER.numbers]
    return pieces.deformation(Volume(WATER, grid, values.reshape(grid.shape)), free, 0)


def exact(level: tuple[str, str | None], points: np.ndarray) -> np.ndarray:
    """(P,) V at points (P, 3) Angstrom."""
    molecule, places = solved(level).mol, points / BOHR
    integrals = molecule.intor("int1e_grids", grids=places)
    electrons = np.einsum("pij,ij->p", integrals, solved(level).make_rdm1())
    apart = np.linalg.norm(places - molecule.atom_coords()[:, None], axis=-1)
    cores = 1 / apart
    if level == VALENCE:
        radii = np.array([CORE_RADII[symbol] for symbol in WATER.symbols])[:, None]
        cores = erf(apart / (np.sqrt(2) * radii)) / apart
    return np.asarray(HARTREE * (molecule.atom_charges() @ cores - electrons))


def near(count: int) -> np.ndarray:
    """Points 1.5 to 3 Angstrom from the molecule's atoms, within the grid."""
    points = np.random.default_rng(0).uniform(-3.0, 3.0, (20 * count, 3))
    apart = np.linalg.norm(points[:, None] - WATER.positions, axis=-1).min(axis=1)
    return points[(apart > 1.5) & (apart < 3.0)][:count]


FAR = np.array([[0.0, 0.3, 6.0], [9.0, -7.0, 4.0], [0.0, -5.2, 0.0], [-4.0, 0.5, 0.1]])


@needs_pyscf
def test_water_beside_integrals_over_its_density() -> None:
    fine, usual = Field(density(VALENCE, 0.1)), Field(density(VALENCE, 0.2))
    for points in (near(200), FAR):
        true = exact(VALENCE, points) / KCALMOL
        assert np.ptp(true) > 1.0
        np.testing.assert_allclose(fine.at(points) / KCALMOL, true, rtol=0, atol=1e-3)
        np.testing.assert_allclose(usual.at(points) / KCALMOL, true, rtol=0, atol=0.1)
    # Among the nuclei, too, where it is hundreds of times as large; one point is a nucleus.
    inner = np.array([[0.0, 0.0, 0.1201], [0.3, 0.0, 0.12], [0.0, 0.4, 0.0], [0.0, 0.76, -0.4]])
    np.testing.assert_allclose(fine.at(inner), exact(VALENCE, inner), rtol=1e-4, atol=0)


@needs_pyscf
def test_water_of_all_electrons() -> None:
    field = Field(density(ALL, 0.15))
    for points in (near(200), FAR):
        true = exact(ALL, points) / KCALMOL
        np.testing.assert_allclose(field.at(points) / KCALMOL, true, rtol=0, atol=0.1)
    beside = WATER.positions + np.array([0.0, 0.0, 0.05])
    np.testing.assert_allclose(field.at(beside), exact(ALL, beside), rtol=1e-3, atol=0)
    assert np.isfinite(field.at(WATER.positions)).all()


@needs_pyscf
def test_multipoles_are_those_of_the_wave_function() -> None:
    method, found = solved(VALENCE), multipoles(density(VALENCE, 0.1))
    np.testing.assert_allclose(found.origin, WATER.numbers @ WATER.positions / 10, atol=1e-12)
    assert found.charge == pytest.approx(0, rel=0, abs=1e-10)
    dipole = method.dip_moment(verbose=0)
    np.testing.assert_allclose(found.dipole, dipole, rtol=0, atol=1e-4)
    quadrupole = method.quad_moment(verbose=0, origin=found.origin / BOHR)
    np.testing.assert_allclose(found.quadrupole, quadrupole, rtol=0, atol=1e-4)
    assert list(found.components()) == ["xx", "yy", "zz", "xy", "xz", "yz"]
    assert np.trace(found.quadrupole) == pytest.approx(0, rel=0, abs=1e-12)


def bells(atoms: Atoms, grid: Grid, charge: float = 0.0) -> Deformation:
    """Free atoms and Gaussians: two that cancel, and one of the charge."""
    free = [free_atom(int(number), True) for number in atoms.numbers]
    values = pieces.promolecule(atoms, grid, free)
    middle = atoms.cell.sum(axis=0) / 2
    for place, electrons in zip(PLACES + middle, (0.3, -0.3, -charge), strict=True):
        for shift in shifts(atoms):
            squares = ((grid.points() - place - shift) ** 2).sum(axis=1).reshape(grid.shape)
            values += electrons * np.exp(-squares / 0.5) / (0.5 * np.pi) ** 1.5
    return pieces.deformation(Volume(atoms, grid, values), free)


PLACES = np.array([[0.2, 0.1, 0.0], [0.6, -0.3, 0.4], [0.0, 0.0, 0.0]])  # width 0.5 Angstrom


def shifts(atoms: Atoms) -> np.ndarray:
    counts = [range(-2, 3) if along else (0,) for along in atoms.pbc]
    return np.array(np.meshgrid(*counts)).reshape(3, -1).T @ atoms.cell.array


def test_points_of_the_grid_have_the_grids_values_and_others_lie_between() -> None:
    grid = by_spacing(WATER, 0.25, 3.6)
    field = Field(bells(WATER, grid))
    values = field.on_grid()
    np.testing.assert_allclose(field.at(grid.points()), values.ravel(), rtol=0, atol=2e-5)
    points = near(100)
    apart = np.linalg.norm(points[:, None] - PLACES, axis=-1)
    round_charges = erf(apart / np.sqrt(0.5)) / apart @ [-0.3, 0.3, 0.0]
    expected = COULOMB * round_charges + field.free.at(points)
    np.testing.assert_allclose(field.at(points), expected, rtol=0, atol=1e-5)
    outside = COULOMB * (1 / np.linalg.norm(FAR[:, None] - PLACES, axis=-1)) @ [-0.3, 0.3, 0.0]
    np.testing.assert_allclose(field.at(FAR), outside + field.free.at(FAR), rtol=0, atol=1e-5)


def test_an_ion_has_its_charge() -> None:
    field = Field(bells(WATER, by_spacing(WATER, 0.25, 3.6), charge=1.0))
    far = np.array([[0.0, 0.0, 50.0], [0.0, 0.0, -50.0]])
    assert field.at(far).mean() == pytest.approx(COULOMB / 50, rel=0, abs=1e-4)


def test_a_crystal_repeats_and_its_mean_is_zero() -> None:
    cell = np.array([[4.0, 0.0, 0.0], [0.5, 4.2, 0.0], [0.3, -0.2, 4.4]])
    crystal = Atoms("NaCl", [[0.5, 0.5, 0.5], [2.6, 2.5, 2.7]], cell=cell, pbc=True)
    field = Field(bells(crystal, by_counts(crystal, (40, 42, 44), 0.0)))
    values = field.on_grid()
    # Chlorine's core is 0.2 Angstrom wide; the steps of 0.1 can follow.
    assert values.mean() == pytest.approx(0, rel=0, abs=1e-3) and np.ptp(values) > 50
    np.testing.assert_allclose(field.at(field.grid.points()), values.ravel(), rtol=0, atol=1e-4)
    points = np.random.default_rng(0).uniform(-1.0, 5.0, (50, 3))
    moved = points + [1, -2, 3] @ cell
    np.testing.assert_allclose(field.at(moved), field.at(points), rtol=0, atol=1e-6)


def test_a_slab_has_no_values_beside_its_grid() -> None:
    slab = Atoms("CO", [[1.0, 1.0, 5.0], [1.0, 1.0, 6.1]], cell=[3.5, 3.6, 12.0], pbc=[1, 1, 0])
    field = Field(bells(slab, by_spacing(slab, 0.25, 3.6)))
    ends = field.at(np.array([[0.3, 0.2, 0.1], [40.0, -30.0, 0.1], [0.3, 0.2, 11.7]]))
    assert ends[0] == pytest.approx(-ends[2], rel=0, abs=1e-3) and abs(ends[0]) > 0.1
    assert ends[0] == pytest.approx(ends[1], rel=0, abs=1e-3)
    with pytest.raises(InputError, match="1,2,13 lies beside the slab's grid"):
        field.at(np.array([[1.0, 2.0, 13.0]]))


def test_what_has_no_potential_is_refused() -> None:
    slab = Atoms("C", [[1.0, 1.0, 5.0]], cell=[3.0, 3.0, 10.0], pbc=[1, 1, 0])
    with pytest.raises(InputError, match="a slab with a charge has no limit"):
        Field(bells(slab, by_spacing(slab, 0.25, 3.6), charge=1.0))
    part = Grid(np.zeros(3), 0.25 * np.eye(3), (6, 12, 40))
    with pytest.raises(InputError, match="the grid does not fill the cell"):
        Field(bells(slab, part))
    wire = Atoms("C", [[1.0, 5.0, 5.0]], cell=[3.0, 10.0, 10.0], pbc=[1, 0, 0])
    with pytest.raises(InputError, match="a wire"):
        Field(bells(wire, by_spacing(wire, 0.3, 3.6)))
