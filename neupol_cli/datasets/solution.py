"""What a DFT program finds of a structure, and how it can fail to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError, TemporaryError
from neupol_cli.io.volumetric import Volume


class NotConverged(InputError):
    """The cycles of an SCF ran out; what they ended at is no answer."""


class Killed(InputError):
    """A program was ended from outside, by lack of memory as a rule."""


class OutOfTime(TemporaryError):
    """A structure took longer than it was given."""


@dataclass(frozen=True)
class Solution:
    """One structure as a DFT program found it.

    Attributes:
        atoms: A atoms.
        energy: eV, of all electrons that the method has (valence ones with pseudopotentials).
        forces: (A, 3) eV/Angstrom.
        dipole: (3,) D; None of a crystal.
        electrons: that the method has.
        valence: those that a neutral atom of each element brings.
        volume: the density; None where it was not asked for.
    """

    atoms: Atoms
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None
    electrons: float
    valence: dict[int, float]
    volume: Volume | None = None

    @property
    def labels(self) -> Mapping[str, object]:
        """What is learnt or told of the structure, by name; None where there is no such thing."""
        return {"energy": self.energy, "forces": self.forces, "dipole": self.dipole}


class Engine(Protocol):
    """A program that solves structures by one method."""

    @property
    def method(self) -> Mapping[str, object]:
        """All that its answers depend on but the structure."""

    @property
    def source(self) -> str:
        """Program, version and method, for people."""

    def solve(self, atoms: Atoms, label: str, density: bool, until: float) -> Solution:
        """One structure.

        Args:
            atoms: with the charge and the multiplicity that it states (io/charges.py).
            label: its name in messages.
            density: whether its density is wanted.
            until: the time (`time.monotonic`) at which to give up.

        Raises:
            InputError: it is not for this program; NotConverged, Killed.
            OutOfTime: when time is over.
        """

    def free_atom(self, number: int, until: float) -> float:
        """Energy (eV) of an atom in its ground state's multiplicity. Raises: as `solve`."""
