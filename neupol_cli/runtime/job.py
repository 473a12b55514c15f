"""Times every subject at growing sizes, within a budget of time and memory, and reports it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np

from neupol_cli.errors import TemporaryError
from neupol_cli.runtime.cases import Conditions, Facts, Subject, Work
from neupol_cli.runtime.timing import (
    Environment,
    Fit,
    Measured,
    attempt,
    crossing,
    expected,
    fit,
    measure,
    peak,
    reset_peak,
)

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table

LEAST = 50e6  # bytes: memory that grew by less says nothing of how it will grow
HEAD = ("size", "atoms", "median", "spread", "per atom", "probes/s", "peak memory", "")


class Size(TypedDict):
    """A structure of a series."""

    size: int
    formula: str
    atoms: int


class Record(Facts):
    """What a size took."""

    seconds: list[float]
    median_s: float
    spread_s: float
    per_atom_s: float
    warmed_up: bool
    peak_memory_bytes: int
    probes_per_second: NotRequired[float]


class Point(Size, Record):
    """A size that was measured."""


class LeftOut(Size):
    """A size that was not, and why."""

    reason: str


class FitValues(TypedDict):
    """The fields of :class:`Fit`."""

    factor: float
    exponent: float
    error: float | None
    smallest: int
    largest: int


class Report(TypedDict):
    """What is told of one subject."""

    model: str
    answers: str
    system: str
    notes: list[str]
    points: list[Point]
    skipped: list[LeftOut]
    fit: FitValues | None


class Crossing(TypedDict):
    """Where a model and the DFT cost the same."""

    model: str
    answers: str
    against: str
    atoms: float | None
    extrapolated: bool


class Series:
    """One subject's sizes, from the smallest up: what each took, or why it was left out."""

    def __init__(self, subject: Subject, conditions: Conditions, repeats: int) -> None:
        self.subject, self.conditions, self.repeats = subject, conditions, repeats
        self.device = "cpu" if subject.answers == "density by DFT" else conditions.device
        self.points: list[Point] = []
        self.skipped: list[LeftOut] = []
        self._efforts: list[int] = []  # what the time depends on: points computed, or atoms
        self._spent: list[float] = []
        self._grown: list[float] = []

    def run(self, seconds: float) -> Report:
        """Goes through the sizes; ``seconds`` are what all of them may take."""
        end = self.subject.clock.end = time.monotonic() + seconds
        self._warm_up()
        for size, atoms in self.subject.system.structures():
            name: Size = {
                "size": size,
                "formula": atoms.get_chemical_formula(),
                "atoms": len(atoms),
            }
            record, reason = attempt(partial(self._measured, atoms, end))
            if record is None:
                self.skipped.append({**name, "reason": reason})
            else:
                self.points.append({**name, **record})
        return self.report()

    def _warm_up(self) -> None:
        """The smallest size once: what is made at the first call is in no size's time or memory."""
        sizes = self.subject.system.sizes
        if len(sizes) > 1:
            attempt(lambda: self.subject.prepare(self.subject.system.make(sizes[0])).run())

    def _sizes(self) -> list[int]:
        return [point["atoms"] for point in self.points]

    def _check(self, atoms: int, effort: int, left: float) -> None:
        """TemporaryError for a size that, by what the smaller ones took, would take too much."""
        growth = self.subject.growth
        seconds = expected(self._efforts, self._spent, effort, growth)
        if left <= 0:
            raise TemporaryError("no time left")
        if seconds > left:
            raise TemporaryError(f"would take about {duration(seconds)}, {duration(left)} are left")
        known = slice(-1, None) if self._grown and self._grown[-1] < LEAST else slice(None)
        memory = expected(self._sizes()[known], self._grown[known], atoms, growth)
        limit = self.conditions.memory
        if memory > limit:
            much = f"{memory / 1e9:.1f} GB, beyond --memory {limit / 1e9:.1f} GB"
            raise TemporaryError(f"would take about {much}")

    def _measured(self, atoms: Atoms, end: float) -> Record:
        """One size: its record without its name."""
        reset_peak(self.device)
        work, start, before = self.subject.prepare(atoms), time.monotonic(), peak(self.device)
        effort = work.facts.get("computed_points", len(atoms))
        self._check(len(atoms), effort, end - start)
        measured = measure(work.run, self.repeats, end - start, self.device)
        self._efforts.append(effort)
        self._spent.append(
            (time.monotonic() - start) / (len(measured.seconds) + measured.warmed_up)
        )
        self._grown.append(max(measured.peak_bytes - before, 1))
        return _record(measured, work, len(atoms))

    def fitted(self) -> Fit | None:
        """The power law of this subject's medians."""
        return fit(self._sizes(), [point["median_s"] for point in self.points])

    def report(self) -> Report:
        """Everything as plain values."""
        fit = self.fitted()
        return {
            "model": self.subject.label,
            "answers": self.subject.answers,
            "system": self.subject.system.name,
            "notes": list(self.subject.notes),
            "points": self.points,
            "skipped": self.skipped,
            "fit": None if fit is None else cast(FitValues, asdict(fit)),
        }


def _record(measured: Measured, work: Work, atoms: int) -> Record:
    record: Record = {
        "seconds": measured.seconds,
        "median_s": measured.median,
        "spread_s": measured.spread,
        "per_atom_s": measured.median / atoms,
        "warmed_up": measured.warmed_up,
        "peak_memory_bytes": measured.peak_bytes,
    }
    if "points" in work.facts:
        record["probes_per_second"] = work.facts["points"] / measured.median
    return {**record, **work.facts}


def run(
    subjects: Sequence[Subject], conditions: Conditions, minutes: float, repeats: int
) -> Iterator[Report]:
    """Each subject's report, as it comes. What one leaves of its share is the next ones'."""
    end = time.monotonic() + 60 * minutes
    for index, subject in enumerate(subjects):
        share = (end - time.monotonic()) / (len(subjects) - index)
        yield Series(subject, conditions, repeats).run(share)


def crossings(reports: Sequence[Report]) -> list[Crossing]:
    """Where each model and the DFT cost the same on the same systems, by their fits.

    ``extrapolated`` unless both were measured on both sides of that size.
    """
    laws = [(r, Fit(**r["fit"])) for r in reports if r["fit"] is not None]
    reference = [pair for pair in laws if pair[0]["answers"] == "density by DFT"]
    crossings: list[Crossing] = []
    for theirs, slow in reference:
        for report, fast in laws:
            if report is theirs or report["system"] != theirs["system"]:
                continue
            atoms = crossing(fast, slow)
            inside = atoms is not None and _measured_around(atoms, fast, slow)
            crossings.append(
                {
                    "model": report["model"],
                    "answers": report["answers"],
                    "against": theirs["model"],
                    "atoms": atoms,
                    "extrapolated": not inside,
                }
            )
    return crossings


def _measured_around(atoms: float, *laws: Fit) -> bool:
    return all(law.smallest <= atoms <= law.largest for law in laws)


def table(report: Report) -> Table:
    """A row a size; those that were left out say why."""
    from rich.table import Table

    rows = Table(box=None, pad_edge=False)
    for name in HEAD:
        rows.add_column(name, justify="right" if name else "left")
    for point in report["points"]:
        rows.add_row(*_row(point))
    for left_out in report["skipped"]:
        row = (str(left_out["size"]), f"{left_out['atoms']:,}", "-", "-", "-", "-", "-")
        rows.add_row(*row, left_out["reason"])
    return rows


def _row(point: Point) -> Iterator[str]:
    yield str(point["size"])
    yield f"{point['atoms']:,}"
    yield duration(point["median_s"])
    yield duration(point["spread_s"]) if len(point["seconds"]) > 1 else "one run"
    yield duration(point["per_atom_s"])
    rate = point.get("probes_per_second")
    yield f"{rate:,.0f}" if rate is not None else "-"
    yield f"{point['peak_memory_bytes'] / 1e6:,.0f} MB"
    share = point["computed_points"] / point["points"] if point.get("scaled") else 1.0
    yield f"scaled up from {100 * share:.2g} % of the probes" if share < 1 else ""


UNITS = (  # below, unit, its length in seconds
    (1e-3, "us", 1e-6),
    (1.0, "ms", 1e-3),
    (7200.0, "s", 1.0),
    (172800.0, "hours", 3600.0),
    (3e7, "days", 86400.0),
    (np.inf, "years", 3.156e7),
)


def duration(value: float) -> str:
    """Seconds in the unit that fits them."""
    unit, length = next((unit, length) for limit, unit, length in UNITS if value < limit)
    amount = value / length
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


def heading(report: Report) -> str:
    """Who, what, on what, and what a reader must know of it."""
    notes = "".join(f"; {note}" for note in report["notes"])
    return f"{report['model']}, {report['answers']}, {report['system']}{notes}"


def law(report: Report) -> str:
    """The exponent with its uncertainty and the sizes that it is of."""
    fit = report["fit"]
    if fit is None:
        return "cost ~ N^p: two sizes at least are needed for p"
    error = fit["error"]
    worth = f" ± {error:.2f}" if error is not None else " (two sizes: no uncertainty)"
    between = f"{fit['smallest']:,} to {fit['largest']:,} atoms"
    return f"cost ~ N^p, p = {fit['exponent']:.2f}{worth}, of {between}"


def meeting(crossing: Crossing) -> str:
    """A crossing point in words."""
    who = f"{crossing['model']} ({crossing['answers']}) and {crossing['against']}"
    if crossing["atoms"] is None:
        return f"{who}: by the fits they cost the same at no size of one atom or more"
    how = "extrapolated from the two fits" if crossing["extrapolated"] else "between measured sizes"
    return f"{who} cost the same at {crossing['atoms']:.3g} atoms, {how}"


def conditions_line(environment: Environment) -> str:
    """Where it was measured, on one line."""
    place = environment["gpu"] or environment["processor"]
    threads = f"{environment['threads']} of {environment['cores']} threads"
    return f"{place}, {threads}, torch {environment['torch']}, {environment['dtype']}"
