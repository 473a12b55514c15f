"""Bonds, surroundings and parts of structures whose chemistry is known."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from neupol_cli.domain.bonds import Bonds


def test_ethanol() -> None:
    atoms = molecule("CH3CH2OH")
    bonds = Bonds.of(atoms)
    assert bonds.types == ["C4", "C4", "O2", *["H1"] * 6]
    surroundings = bonds.surroundings()
    assert surroundings[:3] == ["C4(C4 H1 H1 H1)", "C4(C4 H1 H1 O2)", "O2(C4 H1)"]
    lengths = bonds.bonds()
    assert sorted(lengths) == ["C4-C4", "C4-O2", "H1-C4", "H1-O2"]
    assert lengths["C4-C4"] == [pytest.approx(atoms.get_distance(0, 1), abs=1e-12)] * 2
    to_carbon = [min(atoms.get_distances(k, [0, 1])) for k in range(4, 9)]
    assert lengths["H1-C4"] == pytest.approx([min(to_carbon), max(to_carbon)], abs=1e-12)
    assert len(bonds.pieces) == 1


def test_contacts_know_whether_an_angle_holds_them() -> None:
    atoms = molecule("CH3CH2OH")
    nearest = Bonds.of(atoms).contacts()
    assert nearest["H.H"] == pytest.approx(1.772, abs=1e-3)  # of one methyl group
    of_oxygen = min(atoms.get_distance(3, k) for k in range(4, 9))
    assert nearest["H..H"] == pytest.approx(of_oxygen, abs=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("apart", [2.0, 4.0])
def test_a_broken_bond_leaves_two_parts(apart: float, periodic: bool) -> None:
    atoms = molecule("C2H6")
    half = atoms.positions[:, 2] > 0
    length = atoms.get_distance(0, 1)
    atoms.positions[half, 2] += apart - length
    if periodic:
        atoms.set_cell([15, 15, 15])
        atoms.pbc = True
    bonds = Bonds.of(atoms)
    assert len(bonds.pieces) == 2
    assert bonds.types[0] == "C3"


def test_all_pairs_and_a_search_find_the_same() -> None:
    """108 atoms go through cell lists, 9 through all pairs."""
    one = molecule("CH3CH2OH")
    many = Atoms()
    for k in range(12):
        copy = one.copy()
        copy.rotate(37 * k, "x")
        copy.positions += (12.0 * k, 0, 0)
        many += copy
    each, together = Bonds.of(one), Bonds.of(many)
    assert len(together.pieces) == 12
    assert together.surroundings() == each.surroundings() * 12
    assert together.bonds().keys() == each.bonds().keys()
    for name, extent in each.bonds().items():
        assert together.bonds()[name] == pytest.approx(extent, abs=1e-9)
    assert together.contacts() == pytest.approx(each.contacts(), abs=1e-9)


def test_a_crystal_counts_images() -> None:
    bonds = Bonds.of(bulk("C", "diamond", a=3.57))
    assert bonds.types == ["C4", "C4"]
    assert len(bonds.pieces) == 1


def test_one_atom_has_nothing() -> None:
    bonds = Bonds.of(Atoms("H"))
    assert (bonds.surroundings(), len(bonds.pieces), bonds.contacts()) == (["H0()"], 1, {})
