"""What a page shows: a structure, fields around it whose surfaces can be drawn, numbers of atoms.

    scene = Scene("water", volume.atoms, volume.grid, [density_layer(volume.values)])
    page.write("rho.html", scene)

A surface may be painted with a second field (`Layer.paint`), such as a potential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.volumetric import Grid

DENSITY_UNIT = "e/Å³"
OUTERMOST = 1e-3  # e/Angstrom^3, beyond a molecule's van der Waals surface
FIRST = 0.3  # e/Angstrom^3, where bonds show
NEAR_NUCLEI = 0.9  # of the largest value: a surface that is no more than a point a nucleus
FAINTEST = 0.003  # of the largest value of a field of either sign
BEYOND = 0.008  # of its points have values beyond the level that is seen first


@dataclass(frozen=True, eq=False)
class Paint:
    """A field that colours a surface: red below zero, white at zero, blue above.

    Attributes:
        title: its name.
        unit: that of its values.
        values: (n1, n2, n3) at the points of the surface's field.
        reach: the value, and its negative, of the strongest colours.
    """

    title: str
    unit: str
    values: np.ndarray
    reach: float


@dataclass(frozen=True, eq=False)
class Layer:
    """A field and which of its surfaces are drawn.

    Attributes:
        title: its name.
        unit: that of its values.
        values: (n1, n2, n3) on the scene's grid.
        level: of the surface that is seen first.
        lowest, highest: between which the level can be moved.
        signed: whether the surface of minus the level is drawn as well, in another colour.
        paint: what the surface is coloured by, instead of one colour.
    """

    title: str
    unit: str
    values: np.ndarray
    level: float
    lowest: float
    highest: float
    signed: bool = False
    paint: Paint | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """All that one page shows.

    Attributes:
        title: of the page.
        atoms: (A) the structure.
        grid: where the layers' values are.
        layers: one at a time is seen.
        charges: name -> (A,) e.
        beside: HTML of a column beside the picture, if any.
    """

    title: str
    atoms: Atoms
    grid: Grid
    layers: Sequence[Layer]
    charges: Mapping[str, np.ndarray] = field(default_factory=dict)
    beside: str = ""


def density_layer(values: np.ndarray, title: str = "electron density") -> Layer:
    """Of a density (n1, n2, n3), e/Angstrom^3: one surface, at first where bonds show."""
    highest = NEAR_NUCLEI * _largest(values)
    lowest = min(OUTERMOST, 0.01 * highest)
    return Layer(title, DENSITY_UNIT, values, min(FIRST, 0.5 * highest), lowest, highest)


def signed_layer(values: np.ndarray, title: str, unit: str = DENSITY_UNIT) -> Layer:
    """Of a field of either sign (n1, n2, n3), such as a difference: two surfaces."""
    sizes = np.abs(values)
    lowest, highest = FAINTEST * _largest(sizes), NEAR_NUCLEI * _largest(sizes)
    level = float(np.clip(np.quantile(sizes, 1.0 - BEYOND), lowest, highest))
    return Layer(title, unit, values, level, lowest, highest, signed=True)


def _largest(values: np.ndarray) -> float:
    """The largest of them; a field of zeros has surfaces nowhere, and levels all the same."""
    return float(values.max()) or 1.0
