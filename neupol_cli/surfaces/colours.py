"""Colours of numbers of either sign."""

from __future__ import annotations

import numpy as np

# Strongest below zero, white at zero, strongest above; red, green, blue.
COLOURS = np.array([[0.79, 0.10, 0.12], [0.97, 0.97, 0.97], [0.10, 0.27, 0.75]])


def of_shares(shares: np.ndarray) -> np.ndarray:
    """(A, 3) colours, 0 to 1, of numbers (A,) between -1 and 1."""
    places = np.linspace(-1.0, 1.0, len(COLOURS))
    return np.stack([np.interp(shares, places, channel) for channel in COLOURS.T], axis=-1)
