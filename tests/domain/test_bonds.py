"""Bonds, surroundings and parts of structures whose chemistry is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from neupol_cli.domain.bonds import Bonds, bond_name, contact_name


def test_ethanol() -> None:
    bonds = Bonds.of(molecule("CH3CH2OH"))
    assert bonds.types == ["C4", "C4", "O2", *["H1"] * 6]
    surroundings = bonds.surroundings()
    assert surroundings[:3] == ["C4(C4 H1 H1 H1)", "C4(C4 H1 H1 O2)", "O2(C4 H1)"]
    names = sorted({bond_name(int(code)) for code in bonds.lengths_by_type()[0]})
    assert names == ["C4-C4", "C4-O2", "H1-C4", "H1-O2"]
    assert bonds.parts() == 1


def test_contacts_know_whether_an_angle_holds_them() -> None:
    atoms = molecule("CH3CH2OH")
    codes, lengths = Bonds.of(atoms).contacts()
    nearest = {
        contact_name(int(code)): float(lengths[codes == code].min()) for code in np.unique(codes)
    }
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
    assert bonds.parts() == 2
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
    assert together.parts() == 12
    assert together.surroundings() == each.surroundings() * 12
    for few, all_of_them in (
        (each.lengths_by_type(), together.lengths_by_type()),
        (each.contacts(), together.contacts()),
    ):
        order = np.lexsort((few[1], few[0]))
        np.testing.assert_array_equal(
            np.repeat(few[0][order], 12), all_of_them[0][np.lexsort(all_of_them[::-1])]
        )


def test_a_crystal_counts_images() -> None:
    bonds = Bonds.of(bulk("C", "diamond", a=3.57))
    assert bonds.types == ["C4", "C4"]
    assert bonds.parts() == 1


def test_one_atom_has_nothing() -> None:
    bonds = Bonds.of(Atoms("H"))
    assert (bonds.surroundings(), bonds.parts(), len(bonds.contacts()[0])) == (["H0()"], 1, 0)
