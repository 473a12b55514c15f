"""What a molecule's energy and vibrations are worth as an ideal gas."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from ase.thermochemistry import IdealGasThermo

from neupol_cli.io.charges import state

if TYPE_CHECKING:
    from ase import Atoms

LINEAR = 1e-4  # of the largest moment of inertia: the smallest one of a molecule that is linear
PASCAL = 1e5  # in a bar


class Geometry(Enum):
    """What a molecule looks like to its rotations, and how many rigid motions it has."""

    monatomic = 3
    linear = 5
    nonlinear = 6

    @property
    def rigid(self) -> int:
        """Translations and rotations."""
        return int(self.value)


class Conditions(Protocol):
    """Temperature (K), pressure (bar) and symmetry number."""

    @property
    def temperature(self) -> float: ...

    @property
    def pressure(self) -> float: ...

    @property
    def symmetry_number(self) -> int: ...


@dataclass(frozen=True)
class IdealGas:
    """Harmonic vibrations and a rigid rotor.

    Attributes:
        temperature: K.
        pressure: bar.
        symmetry_number: of the rotor.
        enthalpy: eV, the electronic energy included.
        entropy: eV/K.
        gibbs: eV.
    """

    temperature: float
    pressure: float
    symmetry_number: int
    enthalpy: float
    entropy: float
    gibbs: float


def geometry_of(atoms: Atoms) -> Geometry:
    """Of a molecule, from its moments of inertia."""
    if len(atoms) == 1:
        return Geometry.monatomic
    moments = np.sort(atoms.get_moments_of_inertia())
    return Geometry.linear if moments[0] < LINEAR * moments[-1] else Geometry.nonlinear


def ideal_gas(
    atoms: Atoms, energy: float, vibrations: np.ndarray, geometry: Geometry, conditions: Conditions
) -> IdealGas:
    """A molecule's thermochemistry.

    Args:
        atoms: with its charge and multiplicity; the lowest one where none is stated.
        energy: eV.
        vibrations: energies of the real ones, eV.
        geometry: of the molecule.
        conditions: the command line's.
    """
    thermo = IdealGasThermo(
        list(vibrations),
        geometry.name,
        potentialenergy=energy,
        atoms=atoms,
        symmetrynumber=conditions.symmetry_number,
        spin=(state(atoms)[1] - 1) / 2,
        vib_selection="all",
    )
    temperature, pascal = conditions.temperature, conditions.pressure * PASCAL
    return IdealGas(
        temperature,
        conditions.pressure,
        conditions.symmetry_number,
        float(thermo.get_enthalpy(temperature, verbose=False)),
        float(thermo.get_entropy(temperature, pascal, verbose=False)),
        float(thermo.get_gibbs_energy(temperature, pascal, verbose=False)),
    )
