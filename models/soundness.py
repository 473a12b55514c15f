"""Answers that are no numbers are never given out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import DivergedError

if TYPE_CHECKING:
    import ase

LARGEST = 1e100  # of an answer, in any unit: what follows may square it


def check_finite(
    answers: Mapping[str, np.ndarray], structures: Sequence[ase.Atoms], labels: Sequence[str] | None
) -> None:
    """Refuses answers of a model of properties that are no numbers.

    Args:
        answers: name -> a row a structure, or an atom of ``forces`` and what begins with the word.
        structures: that were asked for.
        labels: what messages call them; their formulas by default.

    Raises:
        DivergedError: naming the first such structure.
    """
    for name, values in answers.items():
        sound = np.abs(values) < LARGEST  # of NaN nothing is true
        if sound.all():
            continue
        row = int(np.argmin(sound.reshape(len(values), -1).all(1)))
        by_atom = name.startswith("forces")
        ends = np.cumsum([len(atoms) if by_atom else 1 for atoms in structures])
        index = int(np.searchsorted(ends, row, side="right"))
        label = labels[index] if labels else structures[index].get_chemical_formula()
        verb = "are" if name == "forces" else "is"
        raise DivergedError(
            f"{label}: the model's {name} {verb} not finite: its weights are not sound, or the "
            "structure is far from all that it was trained on"
        )
