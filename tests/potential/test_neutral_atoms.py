"""Potentials of free atoms: exact ones of Slater functions, cores as PySCF has them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers

from neupol_cli.charges.free_atoms import FAR, FreeAtom, free_atom
from neupol_cli.io.volumetric import by_spacing
from neupol_cli.potential.convolution import COULOMB
from neupol_cli.potential.neutral_atoms import CORE_RADII, Superposition, neutral_atom


def test_a_slater_atom_and_its_nucleus() -> None:
    """N/r (exp(-r/w) (1 + r/2w)), the nucleus included."""
    electrons, width = 6.0, 0.3
    radii = np.concatenate([[0.0], np.geomspace(0.004, 12.0, 4000), [FAR]])
    logarithms = np.log(electrons / (8 * np.pi * width**3)) - radii / width
    found = neutral_atom(FreeAtom(6, False, electrons, radii, logarithms))
    apart = np.linspace(0.05, 6.0, 500)
    exact = electrons * np.exp(-apart / width) * (1 + apart / (2 * width)) / apart
    np.testing.assert_allclose(found.at(apart), COULOMB * exact, rtol=0, atol=3e-3)
    np.testing.assert_allclose(found.at(apart[50:]), COULOMB * exact[50:], rtol=0, atol=2e-4)
    np.testing.assert_allclose(found.at(apart[165:]), COULOMB * exact[165:], rtol=0, atol=1e-5)
    # (2 pi / 3) N <r^2>, and <r^2> = 12 w^2
    exact_integral = COULOMB * 2 * np.pi / 3 * electrons * 12 * width**2
    assert found.integral == pytest.approx(exact_integral, rel=0, abs=1e-2)


@pytest.mark.parametrize(("number", "is_valence"), [(8, True), (8, False), (17, True), (11, True)])
def test_the_integral_is_that_of_the_potential(number: int, is_valence: bool) -> None:
    found = neutral_atom(free_atom(number, is_valence))
    radii = np.linspace(1e-5, 10.0, 400_001)
    summed = (found.at(radii) * radii**2).sum() * 4 * np.pi * (radii[1] - radii[0])
    assert found.integral == pytest.approx(summed, rel=0, abs=2e-2)


def test_at_a_core_the_potential_is_finite_and_flat() -> None:
    found = neutral_atom(free_atom(8, True))
    middle, beside = found.at(np.array([0.0, 0.003]))
    assert 0 < middle - beside < 0.1 and middle > 300


def test_far_away_a_neutral_atom_is_not_felt() -> None:
    for number in (1, 3, 8, 17, 55):
        free = free_atom(number, True)
        assert abs(neutral_atom(free).at(np.array(free.radius))) < 1e-5


def test_cores_are_those_of_the_pseudopotentials() -> None:
    pseudo = pytest.importorskip("pyscf.pbc.gto.pseudo")
    for symbol, radius in CORE_RADII.items():
        electrons = free_atom(atomic_numbers[symbol], True).electrons
        table = pseudo.load("gth-pbe", symbol)
        if sum(table[0]) != electrons:
            table = pseudo.load(f"gth-pbe-q{electrons:g}", symbol)
        assert (sum(table[0]), table[1]) == (electrons, radius)


def test_a_grid_and_its_points_have_the_same_values_also_in_a_cell() -> None:
    molecule = Atoms("CO", [[0.1, 0.2, 0.3], [0.1, 0.2, 1.43]])
    crystal = Atoms("CO", molecule.positions, cell=[3.0, 3.1, 3.2], pbc=True)
    for atoms in (molecule, crystal):
        free = [free_atom(int(number), True) for number in atoms.numbers]
        grid, total = by_spacing(atoms, 0.4, 3.6), Superposition(atoms, free)
        values, points = total.on_grid(grid), grid.points()
        np.testing.assert_allclose(total.at(points), values.ravel(), rtol=0, atol=1e-5)
        shifts = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T * atoms.cell.lengths()
        expected = np.zeros(len(points))
        for place, atom in zip(atoms.positions, free, strict=True):
            for shift in shifts if atoms.pbc.any() else [np.zeros(3)]:
                apart = np.linalg.norm(points - place - shift, axis=1)
                expected += neutral_atom(atom).at(apart)
        np.testing.assert_allclose(values.ravel(), expected, rtol=0, atol=1e-4)
