"""The forms in which predictions leave: a table, tab-separated or JSON lines, or a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import chain, tee
from pathlib import Path

import numpy as np

from neupol_cli import provenance
from neupol_cli.io import hdf5, said, structures
from neupol_cli.io.files import atomic
from neupol_cli.io.hdf5 import Target
from neupol_cli.models.property import UNCERTAINTY
from neupol_cli.prediction.committee import Prediction
from neupol_cli.prediction.ensemble import CONFORMER_SPREAD, TEMPERATURE

Predictions = Iterator[Prediction]
LARGEST = "largest force"


def json_lines(predictions: Predictions) -> None:
    """One object a structure and line, as they come."""
    for prediction in predictions:
        print(json.dumps(provenance.stamped(prediction.record())), flush=True)


def json_file(path: Path, predictions: Predictions) -> None:
    """The same lines in a file."""
    with atomic(path) as partial, partial.open("w") as stream:
        for prediction in predictions:
            stream.write(json.dumps(provenance.stamped(prediction.record())) + "\n")


def table(predictions: Predictions) -> None:
    """Aligned on a terminal; tab-separated, as they come, into a pipe."""
    if sys.stdout.isatty():
        _aligned(list(predictions))
        return
    shown, kept = tee(predictions)
    rows = _rows(shown)
    print("\t".join([*next(rows), "info"]), flush=True)
    for row, prediction in zip(rows, kept, strict=True):
        print("\t".join([*row, said.text(said.of(prediction.atoms))]), flush=True)


def _rows(predictions: Predictions) -> Iterator[list[str]]:
    """A header with units, then a row a structure."""
    first = next(predictions)
    heads = [f"{name} [{t.unit}]" for name, t in _numbers(first).items()]
    of_conformers = ["conformers", "weighted by"] if first.ensemble else []
    known = first.doubts is not None
    yield ["structure", "formula", *heads, *of_conformers, *(["doubts"] if known else [])]
    for prediction in chain([first], predictions):
        numbers = [f"{float(t.values):.10g}" for t in _numbers(prediction).values()]
        if prediction.ensemble:
            numbers += [str(prediction.ensemble.count), prediction.ensemble.weighted_by]
        doubts = ["; ".join(prediction.doubts or ())] if known else []
        yield [prediction.label, prediction.atoms.get_chemical_formula(), *numbers, *doubts]


def _numbers(prediction: Prediction) -> dict[str, Target]:
    """One number a structure; of forces the largest, since a row has no room for all.

    What stands behind that one is how far the force on the same atom may be off.
    """
    numbers: dict[str, Target] = {}
    for name, target in prediction.targets().items():
        if name in ("conformers", "doubts"):  # which are no properties
            continue
        if target.values.ndim == 0:
            numbers[name] = target
        elif target.per == "structure" and target.values.shape == (3,):
            components = zip("xyz", target.values, strict=True)
            numbers |= {f"{name}_{axis}": Target(v, target.unit) for axis, v in components}
    if prediction.forces is not None:
        sizes = np.linalg.norm(prediction.forces.values, axis=1)
        unit, atom = prediction.forces.unit, int(sizes.argmax())
        numbers[LARGEST] = Target(sizes[atom], unit)
        if prediction.force_spread is not None:
            numbers[f"{LARGEST}_spread"] = Target(prediction.force_spread.values[atom], unit)
        if prediction.force_uncertainty is not None:
            numbers[LARGEST + UNCERTAINTY] = Target(prediction.force_uncertainty.values[atom], unit)
    if prediction.stress is not None:
        pressure = -np.trace(prediction.stress.values) / 3
        numbers["pressure"] = Target(np.asarray(pressure), prediction.stress.unit)
    return numbers


def _aligned(predictions: list[Prediction]) -> None:
    """A property a row and a structure a column where they are few; else a structure a row."""
    from rich.table import Table

    from neupol_cli.console import stdout

    if len(predictions) > 6:
        rows = list(_rows(iter(predictions)))
        grid = Table(*rows[0], box=None, pad_edge=False)
        for row in rows[1:]:
            grid.add_row(*row)
        stdout().print(grid)
        return
    short = [structures.short(prediction.label) for prediction in predictions]
    if len(set(short)) < len(short):  # of files in several folders
        short = [prediction.label for prediction in predictions]
    formulas = [prediction.atoms.get_chemical_formula() for prediction in predictions]
    names = [f"{name} ({formula})" for name, formula in zip(short, formulas, strict=True)]
    grid = Table("property", "unit", box=None, pad_edge=False)
    for name in names:
        grid.add_column(name, justify="right")
    numbers = [_numbers(prediction) for prediction in predictions]
    for key, target in numbers[0].items():
        if key.endswith(("_spread", UNCERTAINTY)):
            continue
        grid.add_row(key, target.unit, *(_with_error(columns, key) for columns in numbers))
    counts = [str(p.ensemble.count) for p in predictions if p.ensemble]
    if counts:
        grid.add_row("conformers", "", *counts)
    stdout().print(grid)


def _with_error(numbers: dict[str, Target], name: str) -> str:
    """A number and how far off it may be: nine times in ten, or as the models disagree; behind it,
    in brackets, its spread over conformers."""
    number = float(numbers[name].values)
    # Five digits are enough for a property, but not for the last ones of a total energy.
    value = f"{number:.3f}" if abs(number) >= 100 else f"{number:.5g}"
    half = numbers.get(name + UNCERTAINTY, numbers.get(f"{name}_spread"))
    if half is not None:
        value += f" ± {_rounded(half)}"
    over = numbers.get(name + CONFORMER_SPREAD)
    return value if over is None else f"{value} ({_rounded(over)})"


def _rounded(error: Target) -> str:
    """An error or spread, in as many digits as it is worth."""
    size = float(error.values)
    return f"{size:.0f}" if size >= 100 else f"{size:.2g}"


def csv_file(path: Path, predictions: Predictions) -> None:
    """Comma-separated values; the header names the units, columns behind these what the files say
    of their structures, the last one where the answers come from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    infos: list[said.Info] = []

    def noted() -> Predictions:
        for prediction in predictions:
            infos.append(said.of(prediction.atoms))
            yield prediction

    rows = list(_rows(noted()))  # first, so that the record has all that was read
    writer.writerows(provenance.in_column(said.with_columns(rows, infos)))
    with atomic(path) as partial:
        partial.write_text(text.getvalue())


def xyz_file(path: Path, predictions: Predictions) -> None:
    """Extended xyz: ``U0_eV=...`` in the comment, forces as columns."""
    everything = list(predictions)
    for prediction in everything:
        if prediction.ensemble:
            prediction.atoms.info["conformers_weighted_by"] = prediction.ensemble.weighted_by
    frames = [said.named(p.label, p.atoms) for p in everything]
    structures.write(path, frames, [p.targets() for p in everything])


def hdf5_file(path: Path, predictions: Predictions) -> None:
    """Structures with the predictions as their targets; `neupol data info` reads it."""
    everything = list(predictions)
    rows = [p.targets() for p in everything]
    # Not every structure has doubts where no model knows its domain.
    names = [name for name in rows[0] if all(name in row for row in rows)]
    targets = {name: _gathered([row[name] for row in rows]) for name in names}
    frames = [said.named(p.label, p.atoms) for p in everything]
    dataset = hdf5.from_atoms(frames, "structures", _source(everything), targets=targets)
    hdf5.write(path, dataset)


def _source(predictions: list[Prediction]) -> str:
    """What a dataset of them says that it is."""
    sources = sorted({p.ensemble.weighted_by for p in predictions if p.ensemble})
    if not sources:
        return "predicted by neupol"
    weights = f"weighted by {' or '.join(sources)} at {TEMPERATURE} K"
    return f"predicted by neupol, averages over conformers {weights}"


def _gathered(rows: list[Target]) -> Target:
    """One target of all structures."""
    first, values = rows[0], [row.values for row in rows]
    joined = np.concatenate(values) if first.per == "atom" else np.asarray(values, float)
    return Target(joined, first.unit, first.per)


FILES: dict[str, Callable[[Path, Predictions], None]] = {
    ".extxyz": xyz_file,
    ".xyz": xyz_file,
    ".csv": csv_file,
    ".h5": hdf5_file,
}
