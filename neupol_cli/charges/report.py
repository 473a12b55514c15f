"""What ``neupol charges`` says of one structure: numbers for programs, tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.mbis import Shells
from neupol_cli.charges.sharing import Moments
from neupol_cli.io import said, structures
from neupol_cli.io.hdf5 import Target
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table

TITLES = {
    "hirshfeld": "Hirshfeld",
    "voronoi": "Voronoi deformation density",
    "mbis": "MBIS",
    "bader": "Bader",
}


@dataclass(frozen=True, eq=False)
class AtomicCharges:
    """The answer of one scheme for A atoms.

    Attributes:
        charges: (A,) e.
        dipoles: (A, 3) about the nuclei, e Angstrom.
        volumes: (A,) integral of the atom's density times r^3, e Angstrom^3; None of Voronoi cells.
        volume_ratios: (A,) the same over the free atom's.
        spins: (A,) electrons up minus down, where the density has spin.
        shells: of MBIS.
        basins: (A,) volumes of Bader's atoms, as far as they are denser than 0.001 e/bohr^3,
            Angstrom^3.
        doubts: reasons not to trust this scheme's answer.
    """

    charges: np.ndarray
    dipoles: np.ndarray
    volumes: np.ndarray | None
    volume_ratios: np.ndarray | None
    spins: np.ndarray | None
    shells: Shells | None = None
    basins: np.ndarray | None = None
    doubts: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        moments: Moments,
        free: Sequence[FreeAtom],
        has_volumes: bool,
        has_spin: bool,
        shells: Shells | None = None,
    ) -> AtomicCharges:
        """Of what atoms have, beside their free atoms."""
        nuclei = np.array([atom.electrons for atom in free])
        volumes = moments.thirds if has_volumes else None
        ratios = None if volumes is None else volumes / [atom.volume for atom in free]
        spins = moments.spins if has_spin else None
        return cls(nuclei - moments.electrons, -moments.firsts, volumes, ratios, spins, shells)

    def columns(self) -> dict[str, tuple[np.ndarray, str]]:
        """What there is of each atom, with its unit."""
        every = {
            "charge": (self.charges, "e"),
            "dipole": (self.dipoles, "e*Angstrom"),
            "volume_ratio": (self.volume_ratios, "1"),
            "volume": (self.basins, "Angstrom^3"),
            "spin": (self.spins, "e"),
        }
        return {name: (values, u) for name, (values, u) in every.items() if values is not None}

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        values: dict[str, object] = {
            "charges_e": self.charges.tolist(),
            "charge_sum_e": float(self.charges.sum()),
            "dipoles_eAngstrom": self.dipoles.tolist(),
        }
        if self.volumes is not None and self.volume_ratios is not None:
            values["volumes_eAngstrom3"] = self.volumes.tolist()
            values["volume_ratios"] = self.volume_ratios.tolist()
        if self.basins is not None:
            values["volumes_Angstrom3"] = self.basins.tolist()
        if self.spins is not None:
            values["spins_e"] = self.spins.tolist()
        if self.shells is not None:
            rows = zip(*(vars(self.shells)[name].tolist() for name in _SHELL), strict=True)
            values["shells"] = [dict(zip(_SHELL.values(), row, strict=True)) for row in rows]
        return values


_SHELL = {"owners": "atom", "populations": "electrons", "widths": "width_Angstrom"}


@dataclass(kw_only=True, eq=False)
class ChargesReport:
    """The charges of one structure by each scheme, named as in JSON.

    Attributes:
        structure: its name.
        frame: the structure.
        model: that predicted the density; None of one that is given.
        charge: what charges should add up to.
        free_atoms: what the density was measured against.
        electrons_sum: of the density, as the grid sums it up.
        electrons: the same, with what the grid misses of the free atoms.
        electrons_expected: how many there should be.
        factor: what it was scaled by, where it was.
        schemes: the answers.
        doubts: reasons not to trust them.
        plot: the page that shows them.
        seconds: that it took.
    """

    structure: str
    frame: Atoms
    model: str | None
    charge: int
    free_atoms: str
    electrons_sum: float
    electrons: float
    electrons_expected: float
    factor: float | None = None
    schemes: Mapping[str, AtomicCharges] = field(default_factory=dict)
    doubts: Sequence[str] = ()
    plot: str | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        values = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in ("frame", "schemes", "doubts")
        }
        return values | {
            "formula": self.frame.get_chemical_formula(),
            "elements": self.frame.get_chemical_symbols(),
            "schemes": {name: scheme.as_json() for name, scheme in self.schemes.items()},
            "doubts": list(self.doubts),
            **said.item(said.of(self.frame)),
        }

    def lines(self) -> Iterator[str]:
        """For people, above the tables."""
        yield f"{self.structure}: {self.frame.get_chemical_formula()}, charge {self.charge:d}"
        if self.model is not None:
            yield printable(f"  model      {self.model}")
        yield (
            f"  electrons  {self.electrons:.6f} of {self.electrons_expected:g} "
            f"({self.electrons_sum:.6f} summed over the grid, the rest is its own error)"
        )
        if self.factor is not None:
            yield f"             scaled by {self.factor:.6f} (--no-normalize leaves it as it is)"
        yield f"  time       {self.seconds:.2f} s"
        if self.plot is not None:
            yield printable(f"  written    {self.plot}")

    def tables(self) -> Iterator[Table]:
        """One a scheme."""
        for name, scheme in self.schemes.items():
            yield _table(name, scheme, self.frame.get_chemical_symbols())


def _table(name: str, scheme: AtomicCharges, symbols: Sequence[str]) -> Table:
    from rich.table import Table

    title = f"{TITLES[name]}, sum {scheme.charges.sum():z.4f} e"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("atom", justify="right")
    table.add_column("element")
    columns = {f"{key} ({unit})": v for key, (v, unit) in scheme.columns().items()}
    for head in columns:
        table.add_column(head.removesuffix(" (1)").replace("_", " "), justify="right")
    for atom, symbol in enumerate(symbols):
        cells = (_cell(values[atom]) for values in columns.values())
        table.add_row(str(atom + 1), symbol, *cells)
    return table


def _cell(value: np.ndarray) -> str:
    """A number, or the components of a vector."""
    return " ".join(f"{number:.4f}" for number in np.atleast_1d(value))


def write(path: Path, reports: Sequence[ChargesReport]) -> None:
    """Extended xyz with a column for each number of the atoms (``hirshfeld_charge_e``); errors as
    ``files.atomic``."""
    results = [
        {
            f"{name}_{key}": Target(values, unit, "atom")
            for name, scheme in report.schemes.items()
            for key, (values, unit) in scheme.columns().items()
        }
        for report in reports
    ]
    frames = [said.named(report.structure, report.frame) for report in reports]
    structures.write(path, frames, results)
