"""Densities that there are: what they hold, how far a reference or a model is, and how that goes
with their angular variation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neupol_cli.density import measures, on_grid, references
from neupol_cli.density.analysis import angular_variation
from neupol_cli.density.parts import AtomParts, parts, parts_if_known
from neupol_cli.density.radial import RadialProfile
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import said, volumetric
from neupol_cli.io.files import checked_target
from neupol_cli.io.volumetric import Entry, Volume, guesses
from neupol_cli.text import printable

if TYPE_CHECKING:
    from neupol_cli.density.loading import ModelChoice

MEMORY = 2_000_000_000  # bytes, unless it is told otherwise
POINT = 128  # bytes that a point takes while zeta and errors are computed
DIFFERENCE = "judged minus true electron density, a difference density by neupol"
COARSE = 0.25  # Angstrom: a longer step changes zeta visibly


@dataclass
class ComparedDensity:
    """The numbers of one density, named as in JSON; None is what does not apply.

    ``profile`` and ``pair`` are for pictures, ``atoms``, ``output`` and ``plot`` are there where
    they are wanted.
    """

    structure: str
    formula: str
    split: str | None
    spacing_Angstrom: float
    points: int
    electrons_sum: float
    lowest: float
    highest: float
    zeta: float
    spin_sum: float | None = None
    eps_mae_percent: float | None = None
    eps_mae_spin_percent: float | None = None
    electrons_sum_reference: float | None = None
    zeta_reference: float | None = None
    electrons_sum_predicted: float | None = None
    zeta_predicted: float | None = None
    profile: RadialProfile | None = None
    pair: Compared | None = None
    atoms: AtomParts | None = None
    output: str | None = None
    plot: str | None = None
    info: said.Info | None = None  # what the file says of the structure

    @classmethod
    def of(cls, entry: Entry) -> ComparedDensity:
        """Of one density of a file."""
        volume = entry.volume
        return cls(
            structure=printable(entry.name),
            formula=volume.atoms.get_chemical_formula(),
            split=entry.split,
            spacing_Angstrom=float(volume.grid.spacing.max()),
            points=volume.grid.size,
            electrons_sum=volume.electrons,
            spin_sum=volume.unpaired,
            lowest=float(volume.values.min()),
            highest=float(volume.values.max()),
            zeta=angular_variation(volume),
            info=said.of(volume.atoms) or None,
        )

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        atoms = None if self.atoms is None else self.atoms.as_json()
        distances = None if self.profile is None else self.profile.as_json()
        numbers = vars(self) | {"profile": None, "pair": None, "atoms": atoms}
        numbers["by_distance"] = distances
        return {name: value for name, value in numbers.items() if value is not None}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.structure}: {self.formula}, {self.points:,} points"
        yield f"  electrons  {self.electrons_sum:.6f}, sum over the grid"
        if self.spin_sum is not None:
            yield f"  spin       {self.spin_sum:.6f} electrons, up minus down"
        yield f"  density    {self.lowest:.3g} to {self.highest:.4g} e/Angstrom^3"
        coarse = "; a coarse grid: good to 0.05" if self.spacing_Angstrom > COARSE else ""
        yield f"  zeta       {self.zeta:.5f} (angular variation, 0: radial{coarse})"
        if self.eps_mae_percent is not None:
            yield f"  eps_mae    {self.eps_mae_percent:.4f} %"
        if self.eps_mae_spin_percent is not None:
            yield f"  eps_mae    {self.eps_mae_spin_percent:.4f} % of the spin density"
        if self.zeta_reference is not None:
            yield f"  zeta       {self.zeta_reference:.5f} of the reference"
        if self.atoms is not None:
            yield from filter(None, [self.atoms.line()])
        if files := [name for name in (self.output, self.plot) if name is not None]:
            yield f"  written    {', '.join(files)}"


@dataclass(frozen=True)
class Comparison:
    """What densities are compared with.

    Attributes:
        find: what is compared of an entry, beside which lies another one or none; may be at
            several of them at once.
        beside: the other entries, in the same order.
    """

    find: Callable[[Entry, Entry | None], Compared]
    beside: Callable[[], Iterator[Entry | None]]


class Compared(NamedTuple):
    """Two densities of one structure on one grid: the one that is judged, and the true one or None.

    ``truth_given``: whether the true one is the other file's, not the one that the report is of.
    """

    judged: Volume
    truth: Volume | None = None
    truth_given: bool = False

    @property
    def judged_as(self) -> str:
        """What a page calls the one that is judged."""
        return "density" if self.truth_given else "predicted"


@dataclass(frozen=True)
class Wanted:
    """What is made of a pair beside its errors.

    Attributes:
        profiles: of so many of the first densities what a picture needs.
        atoms: whether atoms' parts are.
        difference: the file of the judged one less the true one; ``{}`` stands for its number.
        pages: whether each is to have a page.
    """

    profiles: int = 0
    atoms: bool = False
    difference: str | None = None
    pages: bool = False

    def __post_init__(self) -> None:
        if self.difference is not None:
            volumetric.written_as(self.difference)
            checked_target(self.difference)

    def add(self, report: ComparedDensity, found: Compared, number: int) -> None:
        """Make it of the pair with a number, from 0 on.

        Raises:
            UsageError: one file is to hold several differences.
        """
        if number < self.profiles or self.pages:
            report.profile = RadialProfile.of(found.judged, found.truth)
        if found.truth is None:
            return
        if self.pages:
            report.pair = found
        if self.atoms or self.pages:
            find = parts if self.atoms else parts_if_known
            report.atoms = find(found.judged, found.truth, report.structure)
        if self.difference is not None:
            if number > 0 and "{}" not in self.difference:
                raise UsageError(f"{self.difference}: for several densities the name needs {{}}")
            report.output = self.difference.replace("{}", str(number))
            difference = found.judged.values - found.truth.values
            volume = Volume(found.judged.atoms, found.judged.grid, difference)
            volumetric.write(report.output, volume, DIFFERENCE)


NOTHING = Comparison(lambda entry, other: Compared(entry.volume), lambda: repeat(None))


def reports(
    path: Path,
    comparison: Comparison = NOTHING,
    pbc: bool | None = None,
    memory: int = MEMORY,
    wanted: Wanted = Wanted(),
) -> Iterator[ComparedDensity]:
    """A report of every density of a file, in order.

    Args:
        path: a file of one density or of many.
        comparison: what adds errors to each, from `with_file` or `with_model`.
        pbc: whether a cube is periodic, where the user knows.
        memory: bytes that several densities may take that are looked at together.
        wanted: what is made of each beside its errors.

    Raises:
        UsageError: a name of no format.
        InputError: a damaged file, or one that does not fit the reference or the model.
    """

    from neupol_cli.models.workers import ahead, in_order

    def compared(numbered: tuple[int, tuple[Entry, Entry | None]]) -> ComparedDensity:
        number, pair = numbered
        report, found = ComparedDensity.of(pair[0]), comparison.find(*pair)
        if found.truth is not None:
            report.eps_mae_percent = measures.mean_absolute_error(found.judged, found.truth)
            report.eps_mae_spin_percent = measures.spin_error(found.judged, found.truth)
        if found.truth is not None and found.truth_given:
            report.electrons_sum_reference = found.truth.electrons
            report.zeta_reference = angular_variation(found.truth)
        elif wanted.pages:
            report.electrons_sum_predicted = found.judged.electrons
            report.zeta_predicted = angular_variation(found.judged)
        wanted.add(report, found, number)
        return report

    pairs = _pairs(path, comparison.beside(), pbc)
    first = list(islice(pairs, 1))
    # Large ones come one after the other, and their parts are shared out.
    at_once = memory // (first[0][0].volume.grid.size * POINT) if first else 1
    return in_order(compared, enumerate(ahead(chain(first, pairs))), at_once)


def _pairs(
    path: Path, beside: Iterator[Entry | None], pbc: bool | None
) -> Iterator[tuple[Entry, Entry | None]]:
    """The entries of a file, each with the one beside it."""
    for entry in volumetric.entries(path, pbc):
        guesses.tell(entry.name, entry.volume)
        yield entry, next(beside)


def with_file(reference: Path, accept: bool = False) -> Comparison:
    """eps_mae against the true densities of a file, same structures in the same order, and their
    zeta. ``accept``: take them for densities whatever speaks against it."""

    def beside() -> Iterator[Entry]:
        for entry in volumetric.entries(reference):
            guesses.tell(entry.name, entry.volume, (guesses.UNIT,))
            yield entry
        raise InputError(f"{reference}: holds fewer densities than the file to compare")

    def find(entry: Entry, other: Entry | None) -> Compared:
        assert other is not None  # there is one beside each
        references.check_atoms(entry.volume.atoms, other.volume.atoms, other.name)
        if not accept:
            references.check_density(other.volume, other.name)
        return Compared(entry.volume, other.volume, truth_given=True)

    return Comparison(find, beside)


def with_model(asked: ModelChoice, memory: int, accept: bool = False) -> Comparison:
    """eps_mae of what a model predicts for the structures of a file of true densities.

    ``accept``: take them for densities of the model's kind whatever speaks against it.
    """

    def find(entry: Entry, other: Entry | None) -> Compared:
        atoms, grid = entry.volume.atoms, entry.volume.grid
        model = asked.model_for(atoms)
        model.check([atoms], [entry.name])
        if not accept:
            references.check_density(entry.volume, entry.name)
            charges = measures.charges_of(atoms, measures.valence_of(model.header))
            references.check_convention(entry.volume, charges, entry.name)
        predicted = on_grid.predict(model, atoms, grid, memory, lambda done: None).volume
        return Compared(predicted, entry.volume)

    return Comparison(find, lambda: repeat(None))


@dataclass(frozen=True)
class Summary:
    """The errors of a split of a dataset, or of a whole file.

    Attributes:
        split: its name, if there are splits.
        structures: how many.
        mean_eps_mae_percent: their mean error.
        correlation_zeta_eps_mae: of error and the true density's zeta, by the coefficient's name
            (Pearson, Spearman; of 3 or more).
    """

    split: str | None
    structures: int
    mean_eps_mae_percent: float
    correlation_zeta_eps_mae: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        return {name: value for name, value in vars(self).items() if value not in (None, {})}

    def line(self) -> str:
        """For people."""
        whose = f"{self.structures:,} structure{'s' * (self.structures > 1)}"
        whose += "" if self.split is None else f" of {self.split}"
        text = f"{whose}: eps_mae {self.mean_eps_mae_percent:.4f} % on average"
        coefficients = self.correlation_zeta_eps_mae.items()
        shown = ", ".join(f"{name.capitalize()} {value:.4f}" for name, value in coefficients)
        return text + (f"; with zeta: {shown}" if shown else "")


def summaries(densities: Sequence[ComparedDensity]) -> Iterator[Summary]:
    """Of each split of a dataset, or of the whole file."""
    compared = [report for report in densities if report.eps_mae_percent is not None]
    for split in dict.fromkeys(report.split for report in compared):
        of_split = [report for report in compared if report.split == split]
        zeta = np.array(
            [r.zeta if r.zeta_reference is None else r.zeta_reference for r in of_split]
        )
        error = np.array([report.eps_mae_percent for report in of_split], dtype=np.float64)
        yield Summary(split, len(of_split), float(error.mean()), _correlation(zeta, error))


def _correlation(zeta: np.ndarray, error: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    if len(zeta) < 3 or np.ptp(zeta) == 0 or np.ptp(error) == 0:
        return {}
    coefficients = {"pearson": pearsonr, "spearman": spearmanr}
    return {
        name: float(coefficient(zeta, error).statistic)
        for name, coefficient in coefficients.items()
    }
