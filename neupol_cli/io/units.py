"""Units by name, and the one function that converts between them.

Inside neupol everything is eV, Angstrom and eV/Angstrom (densities e/Angstrom^3); QM9 keeps the
units of its paper for the rest. Constants are CODATA 2018 (Tiesinga et al., Rev. Mod. Phys. 93,
025010, 2021); the calorie is the thermochemical one, 4.184 J exactly.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from neupol_cli.errors import InputError

HARTREE = 27.211386245988  # eV, CODATA 2018
BOHR = 0.529177210903  # Angstrom, CODATA 2018
AVOGADRO = 6.02214076e23  # 1/mol, exact
ELECTRON = 1.602176634e-19  # C, exact; so 1 eV in joule
LIGHT = 299792458.0  # m/s, exact
BOLTZMANN = 1.380649e-23 / ELECTRON  # eV/K, exact
KJMOL = 1000.0 / (AVOGADRO * ELECTRON)  # eV, 0.010364...
KCALMOL = 4.184 * KJMOL  # eV, 0.043364...
DEBYE = 1e-21 / LIGHT / ELECTRON * 1e10  # e Angstrom, 0.208194...: 1 D = 1e-21 C m^2/s / c

# name -> (dimension, factor to the dimension's canonical unit); the canonical unit has factor 1.
UNITS: dict[str, tuple[str, float]] = {
    "eV": ("energy", 1.0),
    "meV": ("energy", 1e-3),
    "Hartree": ("energy", HARTREE),
    "kcal/mol": ("energy", KCALMOL),
    "kJ/mol": ("energy", KJMOL),
    "Angstrom": ("length", 1.0),
    "bohr": ("length", BOHR),
    "nm": ("length", 10.0),
    "eV/Angstrom": ("force", 1.0),
    "meV/Angstrom": ("force", 1e-3),
    "Hartree/bohr": ("force", HARTREE / BOHR),
    "Hartree/Angstrom": ("force", HARTREE),
    "kcal/mol/Angstrom": ("force", KCALMOL),
    "kJ/mol/Angstrom": ("force", KJMOL),
    "kJ/mol/nm": ("force", KJMOL / 10.0),
    "D": ("dipole", 1.0),
    "e*Angstrom": ("dipole", 1.0 / DEBYE),
    "e*bohr": ("dipole", BOHR / DEBYE),
    "bohr^2": ("area", 1.0),
    "Angstrom^2": ("area", 1.0 / BOHR**2),
    "bohr^3": ("volume", 1.0),
    "Angstrom^3": ("volume", 1.0 / BOHR**3),
    "cal/mol/K": ("heat capacity", 1.0),
    "J/mol/K": ("heat capacity", 1.0 / 4.184),
    "eV/K": ("heat capacity", 1e3 / KCALMOL),
    "e/Angstrom^3": ("density", 1.0),
    "e/bohr^3": ("density", 1.0 / BOHR**3),
    "Angstrom/fs": ("velocity", 1.0),
    "e": ("charge", 1.0),
    "1": ("number", 1.0),
}

ALIASES = {
    "ev": "eV", "mev": "meV", "ha": "Hartree", "hartree": "Hartree", "Eh": "Hartree",
    "A": "Angstrom", "Å": "Angstrom", "angstrom": "Angstrom", "Ang": "Angstrom",
    "Bohr": "bohr", "a0": "bohr", "debye": "D", "Debye": "D", "dimensionless": "1", "": "1",
    "eV/A": "eV/Angstrom", "eV/Å": "eV/Angstrom", "eV/Ang": "eV/Angstrom",
    "Ha/bohr": "Hartree/bohr", "Hartree/Bohr": "Hartree/bohr", "Ha": "Hartree",
    "kcal/mol/A": "kcal/mol/Angstrom", "kcal/mol/Å": "kcal/mol/Angstrom",
    "kJ/mol/A": "kJ/mol/Angstrom", "cal/(mol K)": "cal/mol/K", "cal/molK": "cal/mol/K",
    "e/A^3": "e/Angstrom^3", "e/Å^3": "e/Angstrom^3",
}  # fmt: skip

Quantity = TypeVar("Quantity", float, np.ndarray)


def canonical_name(unit: str) -> str:
    """The name under which a unit is stored: ``A`` is ``Angstrom``; InputError if it is unknown."""
    name = ALIASES.get(unit, unit)
    if name not in UNITS:
        raise InputError(f"unknown unit '{unit}': give one of {', '.join(UNITS)}")
    return name


def factor(source: str, target: str) -> float:
    """How many ``target`` one ``source`` is; InputError if they do not measure the same thing."""
    if source == target:
        return 1.0
    kind, size = UNITS[canonical_name(source)]
    other_kind, other_size = UNITS[canonical_name(target)]
    if kind != other_kind:
        raise InputError(f"'{source}' is a unit of {kind} and '{target}' one of {other_kind}")
    return size / other_size


def convert(values: Quantity, source: str, target: str) -> Quantity:
    """``values`` in ``source``, expressed in ``target``.

    Raises:
        InputError: the two units do not measure the same thing.
    """
    return values * factor(source, target)


def canonical_unit(unit: str) -> str:
    """The unit that quantities of this dimension have inside neupol: ``kcal/mol`` gives ``eV``."""
    kind = UNITS[canonical_name(unit)][0]
    return next(name for name, entry in UNITS.items() if entry == (kind, 1.0))


def suffix(unit: str) -> str:
    """The unit as part of an identifier: ``eV/Angstrom`` is ``eV_per_Angstrom``."""
    head, *rest = unit.replace("^", "").replace("*", "_").split("/")
    return "_per_".join([head, "_".join(rest)]) if rest else head
