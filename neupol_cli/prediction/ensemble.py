"""What is said of a molecule's conformers beside their average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neupol_cli.io.units import BOLTZMANN

TEMPERATURE = 298.15  # K
CONFORMER_SPREAD = "_conformer_spread"  # behind a property's name, in files


@dataclass(frozen=True)
class Ensemble:
    """Conformers that an answer is the average of.

    Attributes:
        weights: (K,) of those that differ, by the force field's energies; their sum is 1.
        tried: how many were made, duplicates included.
        weighted_by: the target, or the force field, whose energies make the weights.
        spread: by property, the standard deviation over the conformers.
    """

    weights: np.ndarray
    tried: int
    weighted_by: str
    spread: dict[str, float]

    @property
    def count(self) -> int:
        """How many differ."""
        return len(self.weights)

    def record(self) -> dict[str, object]:
        """For JSON; the spreads stand with their properties."""
        return {
            "count": self.count,
            "tried": self.tried,
            "weighted_by": self.weighted_by,
            "temperature": {"value": TEMPERATURE, "unit": "K"},
            "weights": self.weights.tolist(),
        }


def boltzmann(energies: np.ndarray) -> np.ndarray:
    """(K,) energies, eV -> (K,) weights at TEMPERATURE, whose sum is 1."""
    factors = np.exp((energies.min() - energies) / (BOLTZMANN * TEMPERATURE))
    return np.asarray(factors / factors.sum())
