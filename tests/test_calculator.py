"""The ASE calculator: forces and stress by differences, and refusals."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from neupol_cli.calculator import NeupolCalculator
from neupol_cli.errors import DivergedError, InputError


def test_forces_equal_differences(untrained) -> None:
    atoms = ase.Atoms("OH2", [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
    atoms.calc = NeupolCalculator(str(untrained()), dtype=torch.float64)
    differences = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), differences, rtol=0, atol=1e-7)
    assert set(atoms.calc.results) >= {"energy", "forces", "U0", "mu"}


def test_stress_equals_differences(untrained) -> None:
    cell = [[3.3, 0.2, 0], [0, 3.1, 0.4], [0.3, 0, 3.6]]
    atoms = ase.Atoms("OHC", [[0, 0, 0], [1.1, 0.2, 0.3], [1.4, 1.6, 1.5]], cell=cell, pbc=True)
    atoms.calc = NeupolCalculator(str(untrained(cutoff=3.0)), dtype=torch.float64)
    differences = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), differences, rtol=0, atol=1e-8)


def test_a_model_without_an_energy_in_ev_is_refused(untrained) -> None:
    with pytest.raises(InputError, match="forces need an energy"):
        NeupolCalculator(str(untrained(targets=("mu",), units=("D",))))
    with pytest.raises(InputError, match="ASE needs eV"):
        NeupolCalculator(str(untrained(targets=("energy",), units=("kcal/mol",))))


def test_a_charge_that_can_only_be_ignored_is_refused() -> None:
    hydroxide = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1})
    hydroxide.calc = NeupolCalculator("qm9")
    with pytest.raises(InputError, match="HO: has charge -1, the model was trained on 0"):
        hydroxide.get_potential_energy()


def test_a_structure_that_flew_apart_is_refused(untrained) -> None:
    atoms = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    atoms.calc = NeupolCalculator(str(untrained()))
    atoms.positions[1, 2] = np.nan
    with pytest.raises(DivergedError, match="HO: atom 2 is not at a finite place"):
        atoms.get_potential_energy()
    atoms.positions[1, 2], atoms.pbc, atoms.cell = 0.97, True, np.diag([3.0, 3.0, 0.01])
    with pytest.raises(DivergedError, match="HO: the cell is degenerate"):
        atoms.get_forces()
