"""What is unlike the training data is told; what is like them is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from neupol_cli.domain import doubts, summary
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.facts import Facts, facts_of
from neupol_cli.errors import InputError
from neupol_cli.io.charges import multiplicity, total_charge

OXYGEN = Atoms("O2", [[0, 0, 0], [0, 0, 1.21]])
METHYL = Atoms("CH3", [[0, 0, 0], [1.08, 0, 0], [-0.54, 0.935, 0], [-0.54, -0.935, 0]])
TRAINING = ["CH4", "C2H6", "CH3CH2OH", "H2O", "CH3OH", "C3H8", "C2H4", "C3H6_D3h", "CH3OCH3"]


@pytest.fixture(scope="module")
def facts() -> Facts:
    structures = []
    rng = np.random.default_rng(0)
    for name in TRAINING:
        for _ in range(20):
            atoms = molecule(name)
            atoms.positions += rng.normal(0, 0.01, (len(atoms), 3))
            structures.append(atoms)
    ranges = {"gap": [4.0, 12.0], "U0": [-700.0, -200.0]}
    return replace(facts_of(structures, ranges), fine=True)


def test_few_data_know_neighbours_by_element(facts: Facts) -> None:
    """Ethyne's hydrogens sit on carbons of two neighbours, which no training structure has."""
    rough = replace(facts, fine=False)
    assert not facts.knows("H1(C2)")
    assert rough.knows("H1(C2)")
    assert not rough.knows("H1(N3)")
    assert not rough.knows("C2(C2 H1)")


def reasons(facts: Facts, atoms: Atoms) -> str:
    return "; ".join(doubts.of_structure(facts, atoms, Bonds.of(atoms)))


@pytest.mark.parametrize("name", TRAINING)
def test_training_structures_have_none(facts: Facts, name: str) -> None:
    assert reasons(facts, molecule(name)) == ""


def test_facts_go_through_json(facts: Facts) -> None:
    record = json.loads(json.dumps(facts.record()))
    again = Facts.read(record)
    assert again.record() == facts.record()
    assert again.surroundings == facts.surroundings


def stretched(by: float) -> Atoms:
    atoms = molecule("C2H6")
    atoms.positions[atoms.positions[:, 2] > 0, 2] += by
    return atoms


def with_hydrogen() -> Atoms:
    atoms = molecule("CH4")
    atoms.append("H")
    atoms.positions[-1] = (0, 0, 1.2)
    return atoms


def without_hydrogens(name: str, count: int) -> Atoms:
    atoms = molecule(name)
    hydrogens = [atom.index for atom in atoms if atom.symbol == "H"]
    del atoms[hydrogens[-count:]]
    return atoms


def apart() -> Atoms:
    atoms = molecule("H2O")
    other = molecule("H2O")
    other.positions += (6.0, 0, 0)
    return atoms + other


def overlapping() -> Atoms:
    other = molecule("CH4")
    other.positions += (1.5, 0.2, 0.1)
    return molecule("CH4") + other


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (stretched(0.2), "a bond C4-C4 of 1.7"),
        (stretched(-0.2), "a bond C4-C4 of 1.3"),
        (stretched(0.6), "in 2 parts that no bond joins"),
        (apart(), "in 2 parts that no bond joins"),
        (with_hydrogen(), "an odd number of electrons"),
        (without_hydrogens("C2H6", 1), "an odd number of electrons"),
        (without_hydrogens("C3H8", 2), "no training structure has an atom"),
        (overlapping(), "no training structure has an atom"),
        (molecule("C6H6") + molecule("C6H6"), "24 atoms, where training structures had 3 to 11"),
        (molecule("C4H4O"), "5 atoms besides hydrogen, where training structures had 1 to 3"),
        (molecule("HCN"), "no training structure has an atom N1(C2)"),
    ],
)
def test_what_is_unlike_them_is_told(facts: Facts, atoms: Atoms, words: str) -> None:
    assert words in reasons(facts, atoms)


def test_a_crystal_of_molecules_is_told(facts: Facts) -> None:
    atoms = molecule("CH4", vacuum=5)
    atoms.pbc = True
    assert "periodic" in reasons(facts, atoms)


def test_numbers_that_cannot_be_are_told(facts: Facts) -> None:
    water = molecule("H2O")
    good = {"gap": 8.0, "homo": -7.0, "lumo": 1.0, "U0": -2079.0 + 1300.0, "mu": 1.8}
    assert doubts.of_answer(facts, water, good) == []
    assert "mu = -0.5 is negative" in doubts.of_answer(facts, water, {"mu": -0.5})
    outside = "is outside of what training structures had"
    told = [f"gap = 50.00 {outside} (4.00 to 12.00)"]
    assert doubts.of_answer(facts, water, {"gap": 50.0}) == told
    # An extensive target is compared an atom: -3000 eV of three atoms are too much.
    told = [f"U0 = -1000 an atom {outside} (-700 to -200)"]
    assert doubts.of_answer(facts, water, {"U0": -3000.0}) == told
    untied = {"gap": 8.0, "homo": -7.0, "lumo": 3.0}
    assert "gap - (lumo - homo)" in doubts.of_answer(facts, water, untied)[0]
    heated = {"H": -2078.0, "U": -2079.0}
    assert "H - U is 1.000 eV, and should be 0.026" in doubts.of_answer(facts, water, heated)[0]


def distant_parts(atoms: Atoms) -> list[Atoms]:
    return doubts.distant_parts(atoms, Bonds.of(atoms))


def test_a_whole_is_the_sum_of_distant_parts() -> None:
    near, far = molecule("H2O"), molecule("H2O")
    far.positions += (20.0, 0, 0)
    parts = distant_parts(near + far)
    assert [part.get_chemical_formula() for part in parts] == ["H2O", "H2O"]
    np.testing.assert_array_equal(parts[1].positions, far.positions)
    assert distant_parts(near) == []
    far.positions -= (14.0, 0, 0)
    assert distant_parts(near + far) == []
    alone = {"U0": -2079.0, "alpha": 6.0, "homo": -7.0}
    twice = {"U0": -4158.0, "alpha": 12.0, "homo": -7.0}
    units = {"U0": "eV", "alpha": "bohr^3", "homo": "eV"}
    assert doubts.of_parts(twice, [alone, alone], units) == []
    off = {"U0": -4157.48, "alpha": 12.0, "homo": -7.0}
    (reason,) = doubts.of_parts(off, [alone, alone], units)
    assert reason == "U0 is +0.52 off the sum of its distant parts"


def test_electrons_are_counted() -> None:
    assert doubts.of_electrons(7.99, 8.0, 0.0) == []
    assert doubts.of_electrons(7.0, 8.0, 0.0) == ["7.000 of 8 electrons"]
    assert doubts.of_electrons(7.5, 8.0, 0.3) == []  # the grid itself may be that far off
    assert doubts.of_electrons(7.0, None, 0.0) == []


def test_charges_and_multiplicities_are_read() -> None:
    ion = Atoms("OH", info={"charge": -1, "multiplicity": 3})
    assert (total_charge(ion), multiplicity(ion)) == (-1, 3)
    assert multiplicity(Atoms("O", info={"spin": 2})) == 3  # unpaired electrons
    assert multiplicity(Atoms("O", info={"spin": 1})) == 1  # 2S + 1: eight electrons are paired
    assert multiplicity(Atoms("OH", info={"spin": 1})) == 2
    assert multiplicity(Atoms("OH", info={"spin": 1, "charge": -1})) == 1
    iron = Atoms("Fe", magmoms=[2.0], cell=[2, 2, 2], pbc=True)
    assert multiplicity(iron) is None
    by_atoms = Atoms("OH", charges=[-1.21, 0.2], magmoms=[1.0, 0.0])
    assert (total_charge(by_atoms), multiplicity(by_atoms)) == (-1, 2)
    assert (total_charge(Atoms("OH")), multiplicity(Atoms("OH"))) == (None, None)
    with pytest.raises(InputError, match=r"a\.xyz: charge=0\.5 is not a whole number"):
        total_charge(Atoms("O", info={"charge": 0.5}), "a.xyz")


def test_a_charge_that_no_training_structure_had(facts: Facts) -> None:
    ion = molecule("CH3OH")
    ion.info["charge"] = 1
    assert doubts.of_charge(facts, ion) == ["has charge +1, the model was trained on 0"]
    ion.info = {"multiplicity": 3}
    assert doubts.of_charge(facts, ion) == ["has multiplicity 3, the model was trained on 1"]


def test_a_line_has_room_for_three() -> None:
    assert doubts.line(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"


def test_a_domain_can_be_read(facts: Facts) -> None:
    first, second, third, bonds, *ranges = summary.lines(facts.record())
    assert first == "trained on 180 molecules of 3 to 11 atoms, 1 to 3 besides hydrogen"
    assert second == "charge 0; even numbers of electrons only; in one piece"
    assert third.endswith("surroundings of atoms (neighbours by element and coordination)")
    assert bonds.startswith("bonds in Angstrom: ")
    assert ranges == ["gap: 4 to 12 eV", "U0: -700 to -200 eV an atom"]


def test_a_force_that_nothing_has_is_told() -> None:
    forces = np.array([[0.0, 3.0, 4.0], [0, 0, 0]])
    assert doubts.of_forces(forces, "eV/Angstrom") == []
    assert doubts.of_forces(forces * 30, "eV/Angstrom") == ["a force of 150 eV/Angstrom"]
    assert doubts.of_forces(forces * 30, "kcal/mol/Angstrom") == []


@pytest.mark.parametrize(
    ("atoms", "stated", "unpaired", "said"),
    [
        (OXYGEN, {"multiplicity": 3}, 1.93, ""),
        (OXYGEN, {"multiplicity": 3}, 1.85, "1.85 unpaired electrons, and multiplicity 3 has 2"),
        (OXYGEN, {"multiplicity": 1}, 1.97, "1.97 unpaired electrons, and multiplicity 1 has 0"),
        (OXYGEN, {}, 1.97, ""),
        (OXYGEN, {}, 0.04, ""),
        (OXYGEN, {}, 1.02, "1.02 unpaired electrons, and there are an even number"),
        (OXYGEN, {"charge": 1}, 0.97, ""),
        (METHYL, {}, 1.04, ""),
        (METHYL, {}, -0.97, "-0.97 unpaired electrons, and there are an odd number"),
        (METHYL, {}, 0.2, "0.20 unpaired electrons, and there are an odd number"),
        (METHYL, {"spin": 1}, 3.0, "3.00 unpaired electrons, and multiplicity 2 has 1"),
        (METHYL, {}, None, ""),
    ],
)
def test_unpaired_electrons_are_as_many_as_the_structure_can_have(
    atoms: Atoms, stated: dict[str, int], unpaired: float | None, said: str
) -> None:
    one = atoms.copy()
    one.info |= stated
    assert doubts.of_spin(unpaired, 0.0, one) == ([said] if said else [])
    assert doubts.of_spin(unpaired, 1.0, one) == []
    one.set_cell([5, 5, 5])
    one.pbc = True  # a crystal's cell may have any number
    assert doubts.of_spin(unpaired, 0.0, one) == []
