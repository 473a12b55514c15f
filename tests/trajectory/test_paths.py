"""Bonds, flat rings and what is measured of movable points, on structures with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule

from neupol_cli.trajectory.measures import by_bond, by_element, measures, report
from neupol_cli.trajectory.paths import Trajectory
from neupol_cli.trajectory.skeleton import skeleton


def moved(atoms: Atoms, moves: np.ndarray) -> Trajectory:
    """A trajectory of three layers, straight to its end."""
    points = atoms.positions + np.array([0.0, 0.5, 1.0])[:, None, None] * moves
    return Trajectory("made up", atoms, "none", ("U0",), points, skeleton(atoms))


def test_benzene_has_twelve_bonds_and_one_ring() -> None:
    bonds = skeleton(molecule("C6H6"))
    assert len(bonds.owners) == 2 * 12
    (ring,) = bonds.rings
    assert sorted(ring.members) == list(range(6))
    assert abs(ring.normal[2]) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(bonds.lengths.min(), 1.084, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("name", "bonds", "rings"),
    [("H2O", 2, []), ("C5H8", 14, [3, 3]), ("C4H4NH", 10, [5]), ("C3H8", 10, []), ("CH4", 4, [])],
)
def test_bonds_and_flat_rings(name: str, bonds: int, rings: list[int]) -> None:
    found = skeleton(molecule(name))
    assert len(found.owners) == 2 * bonds
    assert [len(ring.members) for ring in found.rings] == rings


def test_rings_of_a_crystal_close_in_space() -> None:
    sheet = graphene(size=(4, 4, 1), vacuum=5.0)
    sheet.pbc = True
    rings = skeleton(sheet).rings
    assert {len(ring.members) for ring in rings} == {6}
    assert len(rings) == 16  # one a cell
    assert skeleton(graphene(vacuum=5.0)).rings == []  # too small: every walk ends in an image
    silicon = skeleton(bulk("Si"))
    assert len(silicon.owners) == 8


def test_a_step_along_a_bond() -> None:
    water = molecule("H2O")
    bond = water.positions[1] - water.positions[0]
    moves = np.zeros((3, 3))
    moves[0] = 0.25 * bond
    row = measures(moved(water, moves))[0]
    assert row["displacement"] == pytest.approx(0.25 * np.linalg.norm(bond), abs=1e-12)
    assert row["path_length"] == pytest.approx(row["displacement"], abs=1e-12)
    assert row["of_half_bond"] == pytest.approx(0.5, abs=1e-12)
    assert row["bond_angle"] == pytest.approx(0.0, abs=1e-5)
    assert row["bond_to"] == 1
    still = measures(moved(water, moves))[1]
    assert (still["displacement"], still["bond_angle"]) == (0.0, None)


def test_out_of_a_ring_and_out_of_the_molecule() -> None:
    benzene = molecule("C6H6")
    centre = benzene.get_center_of_mass()
    moves = 0.1 * (benzene.positions - centre)
    moves[:6, 2] += 0.05
    rows = measures(moved(benzene, moves))
    for atom, row in enumerate(rows):
        out = 0.1 * np.linalg.norm(benzene.positions[atom] - centre)
        assert row["outward"] == pytest.approx(out, abs=1e-12)
        if atom < 6:
            assert row["out_of_plane"] == pytest.approx(0.05, abs=1e-12)
            angle = np.degrees(np.arctan2(0.05, out))
            assert row["plane_angle"] == pytest.approx(angle, abs=1e-9)
        else:
            assert row["out_of_plane"] is None
    found = report(moved(benzene, moves))
    assert found["moved_outward"] == 1.0
    assert found["within_half_bond"] == 1.0
    assert found["layers"] == 3


def test_means_by_element_and_bond() -> None:
    methane = molecule("CH4")
    moves = np.zeros((5, 3))
    moves[1:] = 0.1 * (methane.positions[0] - methane.positions[1:])
    found = moved(methane, moves)
    elements = by_element(measures(found))
    assert elements["C"]["displacement"] == 0.0
    assert elements["H"]["displacement"] == pytest.approx(0.109, abs=1e-3)
    bonds = by_bond(found)
    assert bonds["H-C"]["of_bond"] == pytest.approx(0.1, abs=1e-12)
    assert bonds["C-H"] == {"ends": 4, "along": 0.0, "of_bond": 0.0}
    assert list(by_bond(moved(molecule("C6H6"), np.zeros((12, 3))))) == ["C-C ring", "C-H", "H-C"]


def test_a_lone_atom_and_a_crystal_have_less_to_say() -> None:
    alone = measures(moved(Atoms("He"), np.ones((1, 3))))[0]
    assert [alone[key] for key in ("of_half_bond", "outward", "plane_angle")] == [None] * 3
    crystal = measures(moved(bulk("Si"), np.full((2, 3), 0.1)))[0]
    assert crystal["outward"] is None
    assert crystal["of_half_bond"] == pytest.approx(2 * 0.1 * 3**0.5 / 2.3513, abs=1e-3)
