"""Conversion factors against ASE's CODATA 2018 and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import create_units

from neupol_cli.errors import InputError
from neupol_cli.io import units
from neupol_cli.targets import TARGETS

CODATA = create_units("2018")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("Hartree", "eV", CODATA["Hartree"]),
        ("bohr", "Angstrom", CODATA["Bohr"]),
        ("kcal/mol", "eV", CODATA["kcal"] / CODATA["mol"]),
        ("kJ/mol", "eV", CODATA["kJ"] / CODATA["mol"]),
        ("kcal/mol/Angstrom", "eV/Angstrom", CODATA["kcal"] / CODATA["mol"]),
        ("Hartree/bohr", "eV/Angstrom", CODATA["Hartree"] / CODATA["Bohr"]),
        ("e*Angstrom", "D", 1.0 / CODATA["Debye"]),
        ("e*bohr", "D", CODATA["Bohr"] / CODATA["Debye"]),
        ("e/bohr^3", "e/Angstrom^3", CODATA["Bohr"] ** -3),
        ("Angstrom^3", "bohr^3", CODATA["Bohr"] ** -3),
        ("J/mol/K", "cal/mol/K", 1 / 4.184),
        ("eV/K", "cal/mol/K", CODATA["mol"] / CODATA["kcal"] * 1e3),
        ("meV", "eV", 1e-3),
    ],
)
def test_factors(source: str, target: str, expected: float) -> None:
    assert units.factor(source, target) == pytest.approx(expected, rel=1e-8, abs=0)
    assert units.factor(target, source) == pytest.approx(1 / expected, rel=1e-8, abs=0)


def test_values_of_the_literature() -> None:
    assert units.convert(1.0, "kcal/mol", "eV") == pytest.approx(0.0433641, rel=0, abs=1e-7)
    assert units.convert(1.0, "Hartree", "eV") == 27.211386245988
    np.testing.assert_allclose(
        units.convert(np.array([1.0, 2.0]), "bohr", "A"), [0.529177210903, 1.058354421806], rtol=0
    )


def test_mismatch_and_unknown_units_are_errors() -> None:
    with pytest.raises(InputError, match=r"'eV' is a unit of energy and 'Angstrom' one of length"):
        units.convert(1.0, "eV", "Angstrom")
    with pytest.raises(InputError, match="unknown unit 'furlong'"):
        units.canonical_name("furlong")


def test_every_unit_has_one_canonical_unit_and_a_suffix() -> None:
    for name in units.UNITS:
        assert units.factor(units.canonical_unit(name), units.canonical_unit(name)) == 1.0
        assert "/" not in units.suffix(name) and "^" not in units.suffix(name)
    assert units.suffix("eV/Angstrom") == "eV_per_Angstrom"
    assert units.suffix("cal/mol/K") == "cal_per_mol_K"
    assert units.suffix("bohr^3") == "bohr3"
    assert all(target.unit in units.UNITS for target in TARGETS.values() if target.name != "stress")
    assert all(unit in units.UNITS for unit in units.ALIASES.values())
