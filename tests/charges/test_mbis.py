"""MBIS: Slater atoms come back, and water is as Psi4 has it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.charges import mbis, pieces
from neupol_cli.charges.free_atoms import FAR, FreeAtom, free_atom
from neupol_cli.datasets import dft
from neupol_cli.errors import DivergedError
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Volume, by_counts, by_spacing

WATER = Atoms("OH2", [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])


def slater(distances: np.ndarray, electrons: float, width: float) -> np.ndarray:
    return electrons / (8 * np.pi * width**3) * np.exp(-distances / width)


def slater_atom(number: int, electrons: float, width: float) -> FreeAtom:
    radii = np.concatenate([[0.0], np.geomspace(0.004, 12.0, 2000), [FAR]])
    return FreeAtom(
        number, True, electrons, radii, np.log(slater(0.0, electrons, width)) - radii / width
    )


def test_slater_atoms_come_back() -> None:
    """On free atoms that are other Slater functions."""
    populations, widths = np.array([6.8, 0.7, 0.5]), np.array([0.30, 0.26, 0.28])
    free = [slater_atom(8, 6.0, 0.31), slater_atom(1, 1.0, 0.27), slater_atom(1, 1.0, 0.27)]
    grid = by_spacing(WATER, 0.1, 4.5)
    apart = np.linalg.norm(grid.points() - WATER.positions[:, None], axis=-1)
    values = sum(map(slater, apart, populations, widths))
    volume = Volume(WATER, grid, np.asarray(values).reshape(grid.shape))
    found = mbis.mbis(pieces.deformation(volume, free))
    np.testing.assert_allclose(found.shells.populations, populations, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.shells.widths, widths, rtol=0, atol=5e-4)
    np.testing.assert_allclose(found.moments.electrons, populations, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.moments.firsts, 0, rtol=0, atol=2e-3)


def test_in_a_crystal_images_share() -> None:
    """The same atoms in a cell that is smaller than they reach."""
    cell = np.diag([3.4, 3.0, 3.2])
    atoms = Atoms("OC", [[0.1, 0.2, 0.3], [1.8, 1.6, 1.9]], cell=cell, pbc=True)
    populations, widths = np.array([6.5, 3.5]), np.array([0.24, 0.30])
    free = [slater_atom(8, 6.0, 0.25), slater_atom(6, 4.0, 0.29)]
    grid = by_counts(atoms, (34, 30, 32), 0.0)
    shifts = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T @ cell
    values = np.zeros(grid.size)
    for place, population, width in zip(atoms.positions, populations, widths, strict=True):
        for shift in shifts:
            apart = np.linalg.norm(grid.points() - place - shift, axis=1)
            values += slater(apart, population, width)
    found = mbis.mbis(pieces.deformation(Volume(atoms, grid, values.reshape(grid.shape)), free))
    np.testing.assert_allclose(found.shells.populations, populations, rtol=0, atol=5e-3)
    np.testing.assert_allclose(found.shells.widths, widths, rtol=0, atol=1e-3)


def test_water_as_psi4_and_horton_have_it() -> None:
    """tests/mbis-1 of Psi4, HF/cc-pVDZ; its volumes agree with HORTON's to 0.001 bohr^3."""
    angle = np.deg2rad(104.5)
    places = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]]
    atoms = Atoms("OH2", places)
    settings = dft.Settings(xc="hf", basis="cc-pvdz", pseudo="none")
    volume, _ = dft.solve(atoms, settings, "water")
    free = [free_atom(int(number), False) for number in atoms.numbers]
    found = mbis.mbis(pieces.deformation(volume, free, 0)).moments
    charges = atoms.numbers - found.electrons
    np.testing.assert_allclose(charges, [-0.84572, 0.42286, 0.42286], rtol=0, atol=3e-3)
    volumes = found.thirds / BOHR**3
    np.testing.assert_allclose(volumes[0], 26.3377, rtol=0, atol=0.1)
    np.testing.assert_allclose(volumes[1:], 1.5095, rtol=0, atol=0.01)
    dipoles = np.linalg.norm(found.firsts, axis=1) / BOHR
    expected = [0.169807, np.hypot(0.0305701, 0.0079632), np.hypot(0.0305701, 0.0079632)]
    np.testing.assert_allclose(dipoles, expected, rtol=0, atol=4e-3)


def test_core_electrons_are_left_out_from_within() -> None:
    assert mbis.occupied(1, 1.0) == [1.0]
    assert mbis.occupied(6, 6.0) == [2.0, 4.0]
    assert mbis.occupied(6, 4.0) == [4.0]
    assert mbis.occupied(11, 9.0) == [8.0, 1.0]
    assert mbis.occupied(30, 12.0) == [12.0]
    assert mbis.occupied(22, 12.0) == [8.0, 4.0]


@pytest.mark.parametrize(
    ("number", "is_valence"), [(1, True), (8, True), (8, False), (11, True), (26, True)]
)
def test_a_free_atoms_shells_hold_its_electrons(number: int, is_valence: bool) -> None:
    atom = free_atom(number, is_valence)
    shells = mbis.initial([atom])
    assert shells.populations.sum() == pytest.approx(atom.electrons, rel=0, abs=1e-9)
    assert (np.diff(shells.widths) > 0).all()


def test_what_does_not_settle_is_said(monkeypatch) -> None:
    monkeypatch.setattr(mbis, "CONVERGED", 0.0)
    monkeypatch.setattr(mbis, "MOST", 4)
    with pytest.raises(DivergedError, match="did not settle in 4 steps"):
        mbis.initial([free_atom(8, False)])
