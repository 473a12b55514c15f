"""Hirshfeld and Voronoi charges of densities that are put together from known atoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from neupol_cli.charges import free_atoms, pieces, sharing
from neupol_cli.charges.free_atoms import FreeAtom, free_atom
from neupol_cli.datasets import dft
from neupol_cli.errors import InputError
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing
from neupol_cli.models import workers

WATER = Atoms("OH2", [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
SCHEMES = (sharing.hirshfeld, sharing.voronoi)


def atoms_of(structure: Atoms, is_valence: bool = True) -> list[FreeAtom]:
    return [free_atom(int(number), is_valence) for number in structure.numbers]


def bells(structure: Atoms, electrons: list[float], grid: Grid, width: float = 0.45) -> np.ndarray:
    """A Gaussian on each atom and its images, (n1, n2, n3) e/Angstrom^3."""
    shifts = [np.zeros(3)]
    if structure.pbc.all():
        counts = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T
        shifts = list(counts @ structure.cell.array)
    values = np.zeros(grid.size)
    points = grid.points()
    for place, count in zip(structure.positions, electrons, strict=True):
        for shift in shifts:
            squares = ((points - place - shift) ** 2).sum(axis=1)
            values += count * np.exp(-squares / (2 * width**2)) / (2 * np.pi * width**2) ** 1.5
    return values.reshape(grid.shape)


def polar(structure: Atoms, grid: Grid) -> Volume:
    """Free atoms, with half an electron more around the first one, less around the others."""
    others = len(structure) - 1
    values = pieces.promolecule(structure, grid, atoms_of(structure))
    return Volume(
        structure, grid, values + bells(structure, [0.5] + others * [-0.5 / others], grid)
    )


def charges(volume: Volume, scheme: object, charge: int | None = None) -> np.ndarray:
    free = atoms_of(volume.atoms)
    moments = scheme(pieces.deformation(volume, free, charge))  # type: ignore[operator]
    return np.array([atom.electrons for atom in free]) - moments.electrons


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_promolecule_has_no_charges_on_any_grid(scheme) -> None:
    free = atoms_of(WATER)
    for spacing in (0.2, 0.4):
        grid = by_spacing(WATER, spacing, 3.6)
        volume = Volume(WATER, grid, pieces.promolecule(WATER, grid, free))
        found = scheme(pieces.deformation(volume, free))
        np.testing.assert_allclose(found.electrons, [6, 1, 1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.firsts, 0, rtol=0, atol=1e-12)
        if scheme is sharing.hirshfeld:
            volumes = [atom.volume for atom in free]
            np.testing.assert_allclose(found.thirds, volumes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_single_atom_has_what_there_is(scheme) -> None:
    """An oxygen atom beside which half an electron lies, 0.5 Angstrom along x."""
    oxygen = Atoms("O", [[0.03, -0.02, 0.01]])
    grid = by_spacing(oxygen, 0.2, 3.6)
    beside = Atoms("H", oxygen.positions + np.array([0.5, 0.0, 0.0]))
    values = pieces.promolecule(oxygen, grid, atoms_of(oxygen)) + bells(beside, [0.5], grid)
    volume = Volume(oxygen, grid, values, spin=bells(beside, [0.25], grid))
    found = scheme(pieces.deformation(volume, atoms_of(oxygen)))
    assert found.electrons[0] == pytest.approx(6.5, rel=0, abs=1e-5)
    np.testing.assert_allclose(found.firsts[0], [0.25, 0, 0], rtol=0, atol=1e-5)
    assert found.spins[0] == pytest.approx(0.25, rel=0, abs=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_far_atoms_keep_their_own(scheme) -> None:
    pair = Atoms("OC", [[0.0, 0.0, 0.0], [9.0, 0.1, 0.2]])
    grid = by_spacing(pair, 0.25, 3.6)
    values = pieces.promolecule(pair, grid, atoms_of(pair)) + bells(pair, [0.4, -0.3], grid)
    found = charges(Volume(pair, grid, values), scheme)
    np.testing.assert_allclose(found, [-0.4, 0.3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_charges_add_up_after_normalising(scheme) -> None:
    grid = by_spacing(WATER, 0.4, 3.6)
    values = bells(WATER, [6.5, 0.6, 0.6], grid)
    for charge in (0, -1, 1):
        found = charges(Volume(WATER, grid, values), scheme, charge)
        assert found.sum() == pytest.approx(charge, rel=0, abs=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_turned_molecule_has_the_same_charges(scheme) -> None:
    turned = WATER.copy()
    turned.rotate(37.0, (1.0, 2.0, 3.0))
    turned.positions += [0.31, -0.27, 0.11]
    found = [charges(polar(s, by_spacing(s, 0.15, 3.6)), scheme) for s in (WATER, turned)]
    assert found[0][0] < -0.05
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-3)
    np.testing.assert_allclose(found[0][1], found[0][2], rtol=0, atol=1e-12)


def crystal() -> tuple[Volume, Atoms]:
    cell = np.array([[3.1, 0.2, 0.0], [-1.4, 2.9, 0.3], [0.1, 0.5, 4.0]])
    atoms = Atoms("CO", [[0.1, 0.2, 0.3], [1.0, 1.6, 2.2]], cell=cell, pbc=True)
    grid = by_counts(atoms, (16, 15, 20), 0.0)
    return polar(atoms, grid), atoms


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_crystal_may_be_moved_through_its_cell(scheme) -> None:
    """By whole steps of the grid, so that the same density comes in at the other side."""
    volume, atoms = crystal()
    moved = atoms.copy()
    moved.positions += 9 * volume.grid.step[0] - 5 * volume.grid.step[2]
    moved.wrap()
    values = np.roll(volume.values, (9, -5), axis=(0, 2))
    found = charges(volume, scheme)
    assert found.sum() == pytest.approx(0, rel=0, abs=1e-6) and abs(found[0]) > 0.05
    np.testing.assert_allclose(
        charges(Volume(moved, volume.grid, values), scheme), found, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_supercell_has_the_charges_of_its_cell(scheme) -> None:
    volume, atoms = crystal()
    large = atoms.repeat((2, 1, 2))
    grid = Grid(volume.grid.origin, volume.grid.step, (32, 15, 40))
    tiled = Volume(large, grid, np.tile(volume.values, (2, 1, 2)))
    expected = np.tile(charges(volume, scheme), 4)
    np.testing.assert_allclose(charges(tiled, scheme), expected, rtol=0, atol=1e-7)


def test_threads_change_nothing(monkeypatch) -> None:
    volume, _ = crystal()
    alone = charges(volume, sharing.hirshfeld)
    monkeypatch.setattr(workers._chosen, "workers", 3)
    np.testing.assert_array_equal(charges(volume, sharing.hirshfeld), alone)


def test_a_voxel_goes_to_both_sides_of_the_plane_that_cuts_it() -> None:
    centers = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    points = np.array([[0.3, 0.0, 0.0], [0.45, 0.7, 0.0], [0.5, 0.0, 0.2], [0.9, 0.0, 0.0]])
    distances = np.linalg.norm(centers[:, None] - points, axis=-1)
    shares = sharing.cells(centers, distances, 0.2 * np.eye(3))
    expected = [[1, 0.75, 0.5, 0], [0, 0.25, 0.5, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)


def test_all_electrons_with_a_nucleus_on_the_grid_beside_an_atom_centred_grid() -> None:
    """CO2, whose carbon lies on a point, by the same weights on Becke's grid of PySCF."""
    from pyscf import dft as kohn_sham

    from neupol_cli.io.units import BOHR

    atoms = molecule("CO2")
    settings = dft.Settings(basis="def2-tzvp", pseudo="none", spacing=0.2)
    volume, _ = dft.solve(atoms, settings, "CO2")
    assert np.linalg.norm(volume.grid.points() - atoms.positions[0], axis=1).min() < 1e-6
    free = atoms_of(atoms, is_valence=False)
    method = kohn_sham.RKS(dft._molecule(atoms, settings)).density_fit()
    method.xc, method.grids.level = "pbe", 4
    method.kernel()
    points = method.grids.coords * BOHR
    density = method._numint.get_rho(method.mol, method.make_rdm1(), method.grids) / BOHR**3
    apart = np.linalg.norm(points - atoms.positions[:, None], axis=-1)
    shares = np.array([atom.density(d) for atom, d in zip(free, apart, strict=True)])
    shares /= shares.sum(axis=0)
    expected = atoms.numbers - shares @ (density * method.grids.weights * BOHR**3)
    moments = sharing.hirshfeld(pieces.deformation(volume, free, 0))
    assert expected[0] > 0.2
    np.testing.assert_allclose(atoms.numbers - moments.electrons, expected, rtol=0, atol=4e-3)


def test_a_density_without_electrons_is_not_scaled() -> None:
    grid = by_spacing(WATER, 0.5, 3.0)
    with pytest.raises(InputError, match="cannot be normalised"):
        pieces.deformation(Volume(WATER, grid, np.zeros(grid.shape)), atoms_of(WATER), 0)


def test_free_atoms_have_their_electrons_and_decay() -> None:
    table = free_atoms._table()
    for number, valence in zip(table.numbers.tolist(), table.valence.tolist(), strict=True):
        atom = free_atom(number, valence != free_atoms.ALL)
        assert atom.electrons == (valence or number)
        assert atom.moment(0) == pytest.approx(atom.electrons, rel=0, abs=1e-9)
        far = atom.density(np.linspace(2.5, 15.0, 60))
        assert (np.diff(far) <= 0).all() and far[-1] < 1e-6
    hydrogen = free_atom(1, False)
    assert 6.0 < hydrogen.volume / 0.529177**3 < 11.0  # 7.5 bohr^3 of the exact atom
