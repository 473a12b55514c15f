"""What pulls at electrons in a structure: its atoms' charges, or their electronegativities.

Beside paths of movable points it is the first row of Figure 3 of Kwak and Jo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.surfaces.colours import of_shares
from neupol_cli.trajectory import electronegativity

if TYPE_CHECKING:
    from ase import Atoms

MEMORY = 2_000_000_000  # bytes for a density's grid and tiles


@dataclass(frozen=True, eq=False)
class Polarity:
    """A number for each of A atoms.

    Attributes:
        title: what it is.
        unit: its unit, or nothing.
        values: (A,).
        colours: (A, 3) red where electrons are drawn to, white between, blue where from; 0 to 1.
    """

    title: str
    unit: str
    values: np.ndarray
    colours: np.ndarray

    def summary(self) -> str:
        """The line under a drawing."""
        low, high = self.values.min(), self.values.max()
        return f"{low:.2f} to {high:.2f}{self.unit and ' ' + self.unit}; red draws electrons"


Finder = Callable[[str, "Atoms"], Polarity]  # of a structure and its name


def finder(kind: str, device: str) -> Finder:
    """How structures' polarities are found; InputError, then, of elements that are not known.

    Args:
        kind: ``charges``, by Hirshfeld from the bundled density model, or ``electronegativity``.
        device: of the model.
    """
    return _charges(device) if kind == "charges" else _electronegativity


def _electronegativity(label: str, atoms: Atoms) -> Polarity:
    try:
        values = electronegativity.of_elements(atoms.numbers)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    apart = electronegativity.PAULING["C"] - values  # carbon is white
    return Polarity("Pauling electronegativity", "", values, _coloured(apart, 0.1))


def _charges(device: str) -> Finder:
    from neupol_cli.charges import job, sources
    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.density.on_grid import GridChoice

    asked = ModelChoice(device=device)
    options = sources.SourceOptions(choice=GridChoice(), memory=MEMORY)

    def of_structure(label: str, atoms: Atoms) -> Polarity:
        source = sources.of_predicted(label, atoms, options, job.POINT, asked)
        charges = job.answer("hirshfeld", source.deformation).charges
        return Polarity("Hirshfeld charge", "e", charges, _coloured(charges, 0.05))

    return of_structure


def _coloured(values: np.ndarray, least: float) -> np.ndarray:
    """Colours (A, 3) of values (A,); those far below ``least`` are nearly white."""
    return of_shares(values / max(least, float(np.abs(values).max())))
