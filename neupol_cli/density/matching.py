"""Which atoms of two structures are each other's."""

from __future__ import annotations

import numpy as np


def counterparts(
    distances: np.ndarray, numbers: np.ndarray, others: np.ndarray, within: float
) -> list[int]:
    """For the first atoms of a structure the nearest one of its element in another structure.

    Args:
        distances: (A, B) of atoms to the other structure's, images looked at.
        numbers, others: (A,), (B,) atomic numbers.
        within: how far a counterpart may be, in the unit of the distances.

    Returns:
        Indices of the other structure's atoms, each once; A of them, or fewer if the next atom has
        no counterpart of its own.
    """
    found: list[int] = []
    for number, row in zip(numbers, distances, strict=True):
        alike = np.where(others == number, row, np.inf)
        nearest = int(alike.argmin())
        if alike[nearest] > within or nearest in found:
            break
        found.append(nearest)
    return found
