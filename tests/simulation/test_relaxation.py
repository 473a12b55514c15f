"""Relaxations on springs, by every optimizer."""

from __future__ import annotations

import ase
import numpy as np
import pytest

from neupol_cli.simulation.potential import Potential
from neupol_cli.simulation.relaxation import OPTIMIZERS, RelaxOptions, relax, rmsd
from tests.simulation import harmonic

WATER = [[0, 0, 0.119], [0, 0.763, -0.477], [0.1, -0.763, -0.477]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_gets_there(optimizer: str) -> None:
    start = ase.Atoms("OH2", WATER)
    options = RelaxOptions(optimizer, fmax=1e-4, steps=500)
    found = relax(Potential(harmonic.built(), "springs"), options, ("water", start))
    lengths = found.atoms.get_all_distances()[np.triu_indices(3, 1)]
    np.testing.assert_allclose(lengths, harmonic.LENGTH, rtol=0, atol=1e-5)
    assert found.converged and 0 < found.steps < 500 and found.fmax < 1e-4
    assert start.positions.tolist() == WATER


def test_how_far_a_molecule_went_does_not_count_its_turning() -> None:
    start = ase.Atoms("OH2", WATER)
    turned = start.copy()
    turned.rotate(40, (1, 2, 3))
    turned.translate([3, 0, 0])
    assert rmsd(start, turned, False) == pytest.approx(0, abs=1e-7)
    moved = start.copy()
    moved.set_constraint(ase.constraints.FixAtoms([1]))
    moved.positions += [0.3, 0, 0]
    assert rmsd(moved, start, False) == pytest.approx(0.3, abs=1e-12)


def test_nor_the_motion_of_its_cell() -> None:
    start = ase.Atoms("OH", [[0, 0, 0], [1, 0, 0]], cell=[2, 2, 2], pbc=True)
    wider = start.copy()
    wider.set_cell([3, 3, 3], scale_atoms=True)
    assert rmsd(start, wider, True) == pytest.approx(0, abs=1e-12)
