"""What ``neupol potential`` says of one structure: numbers for programs, tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.io import said
from neupol_cli.io.units import HARTREE, KCALMOL
from neupol_cli.potential.multipoles import Multipoles
from neupol_cli.potential.surface import LEVEL, Extremum, SurfacePotential
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table

SIGN = "positive for a positive test charge"
ZEROS = {0: "zero far away", 2: "opposite far away on both sides", 3: "its mean is zero"}
BACKGROUND = "the charge is compensated by a uniform one"
CORES = {True: "Gaussian cores of GTH-PBE and valence electrons", False: "point nuclei"}


@dataclass(kw_only=True, eq=False)
class PotentialReport:
    """The potential of one structure.

    Attributes:
        structure: its name.
        frame: the structure.
        model: that predicted the density; None of one that is given.
        charge: of the structure.
        is_valence: whether core electrons are left out.
        electrons: of the density, free atoms as they are and the rest as the grid sums it up.
        electrons_expected: how many there should be.
        factor: what the density was scaled by, where it was.
        lowest, highest: on the grid, V.
        multipoles: of a molecule.
        points: (P, 3) Angstrom where values were asked for.
        values: (P,) V there.
        surface: of --surface.
        doubts: reasons not to trust it.
        output: the file that was written.
        seconds: that it took.
    """

    structure: str
    frame: Atoms
    model: str | None
    charge: int
    is_valence: bool
    electrons: float
    electrons_expected: float
    factor: float | None
    lowest: float
    highest: float
    multipoles: Multipoles | None
    points: np.ndarray
    values: np.ndarray
    surface: SurfacePotential | None
    doubts: Sequence[str]
    output: str | None = None
    plot: str | None = None
    seconds: float = 0.0

    @property
    def zero(self) -> str:
        """Where the potential is zero."""
        axes = int(self.frame.pbc.sum())
        return ZEROS[axes] + (f", {BACKGROUND}" if axes == 3 and self.charge else "")

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        values: dict[str, object] = {
            "structure": self.structure,
            "formula": self.frame.get_chemical_formula(),
            "charge": self.charge,
            "nuclei": CORES[self.is_valence],
            "electrons": self.electrons,
            "electrons_expected": self.electrons_expected,
            "sign": SIGN,
            "zero": self.zero,
            "lowest_Hartree_per_e": self.lowest / HARTREE,
            "highest_Hartree_per_e": self.highest / HARTREE,
        }
        if self.model is not None:
            values["model"] = self.model
        if self.factor is not None:
            values["factor"] = self.factor
        if self.multipoles is not None:
            values["multipoles"] = self.multipoles.as_json()
        if len(self.points):
            pairs = zip(self.points.tolist(), (self.values / HARTREE).tolist(), strict=True)
            values["points"] = [{"place_Angstrom": p, "Hartree_per_e": v} for p, v in pairs]
        if self.surface is not None:
            values["surface"] = self.surface.as_json()
        if self.output is not None:
            values["output"] = self.output
        if self.plot is not None:
            values["plot"] = self.plot
        values |= {"doubts": list(self.doubts), "seconds": self.seconds}
        return values | said.item(said.of(self.frame))

    def lines(self) -> Iterator[str]:
        """For people, above the tables."""
        yield f"{self.structure}: {self.frame.get_chemical_formula()}, charge {self.charge:d}"
        if self.model is not None:
            yield printable(f"  model      {self.model}")
        yield f"  electrons  {self.electrons:.6f} of {self.electrons_expected:g}"
        if self.factor is not None:
            yield f"             scaled by {self.factor:.6f} (--no-normalize leaves it as it is)"
        yield f"  nuclei     {CORES[self.is_valence]}"
        yield (
            f"  potential  {self.lowest / HARTREE:.5f} to {self.highest / HARTREE:.5f} Hartree/e "
            f"on the grid; {SIGN}, {self.zero}"
        )
        yield from () if self.multipoles is None else _multipoles(self.multipoles)
        yield f"  time       {self.seconds:.2f} s"
        for path in (self.output, self.plot):
            if path is not None:
                yield f"  written    {path}"

    def tables(self) -> Iterator[Table]:
        """Of points, and of the surface."""
        if len(self.points):
            yield _points(self.points, self.values)
        if self.surface is not None:
            yield _surface(self.surface, self.frame.get_chemical_symbols())


def _multipoles(found: Multipoles) -> Iterator[str]:
    dipole = " ".join(f"{number:.4f}" for number in found.dipole)
    origin = ", ".join(f"{number:.4f}" for number in found.origin)
    quadrupole = " ".join(f"{name} {value:.4f}" for name, value in found.components().items())
    yield f"  charge     {found.charge:z.4f} e"
    yield f"  dipole     {np.linalg.norm(found.dipole):.4f} D = |{dipole}|"
    yield f"  quadrupole {quadrupole} D*Angstrom, traceless"
    yield f"             both about the centre of nuclear charge ({origin}) Angstrom"


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _points(points: np.ndarray, values: np.ndarray) -> Table:
    table = _table("points (Angstrom)", "x", "y", "z", "Hartree/e", "kcal/mol/e")
    for place, value in zip(points, values, strict=True):
        numbers = [f"{number:.4f}" for number in place]
        table.add_row(*numbers, f"{value / HARTREE:.6f}", f"{value / KCALMOL:.3f}")
    return table


def _surface(surface: SurfacePotential, symbols: Sequence[str]) -> Table:
    """A row a number, with its unit."""
    table = _table(f"surface of {LEVEL:g} e/bohr^3", "", "", "unit", "place (Angstrom)", "nearest")
    for name, extremum in (("lowest", surface.lowest), ("highest", surface.highest)):
        table.add_row(name, f"{extremum.value:.2f}", "kcal/mol/e", *_where(extremum, symbols))
    rows = {
        "average": (surface.average, "kcal/mol/e"),
        "positive average": (surface.average_positive, "kcal/mol/e"),
        "negative average": (surface.average_negative, "kcal/mol/e"),
        "variance": (surface.variance, "(kcal/mol/e)^2"),
        "of positive": (surface.variance_positive, "(kcal/mol/e)^2"),
        "of negative": (surface.variance_negative, "(kcal/mol/e)^2"),
        "balance nu": (surface.balance, ""),
        "deviation Pi": (surface.deviation, "kcal/mol/e"),
        "area": (surface.area_Angstrom2, "Angstrom^2"),
    }
    for name, (value, unit) in rows.items():
        table.add_row(name, f"{value:.4f}" if not unit else f"{value:.2f}", unit)
    return table


def _where(extremum: Extremum, symbols: Sequence[str]) -> tuple[str, str]:
    place = " ".join(f"{number:.3f}" for number in extremum.place)
    return place, f"{symbols[extremum.atom]} {extremum.atom + 1}"
