"""Runs as tables, and their curves as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neupol_cli import figures
from neupol_cli.runs.reading import Record, TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 3  # panels side by side
HEADS = ("run", "network", "preset", "targets", "steps", "epochs", "minutes")
ERRORS = ("error of", "run", "best validation", "test", "unit")
LOSS = "training loss (standardised)"
Curve = list[tuple[int, float]]


def show(records: Sequence[Record]) -> None:
    """What each run is and by which options they differ, then their errors, alike ones together."""
    names = list(records[0]["options"])
    rows = [[*_described(one), *map(_cell, one["options"].values())] for one in records]
    _print((*HEADS, *names), rows)
    if errors := list(_errors(records)):
        print()
        _print(ERRORS, errors)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    from neupol_cli.console import stdout

    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    stdout().print(table, highlight=False)


def _described(record: Record) -> list[str]:
    epochs = "-" if record["epochs"] is None else f"{record['epochs']:.4g}"
    counted = [f"{record['steps']:,}", epochs, f"{record['minutes']:.1f}"]
    what = (record["run"], record["network"], record["preset"], record["targets"])
    return [*map(_cell, what), *counted]


def _cell(value: object) -> str:
    """A value, such as an option's, in a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _errors(records: Sequence[Record]) -> Iterator[list[str]]:
    names = dict.fromkeys(n for one in records for n in (*one["valid"], *one["test"]))
    for name in names:
        for one in records:
            measured = [one[split].get(name) for split in ("valid", "test")]
            units = [m["unit"] for m in measured if m]
            if units:
                values = [f"{m['value']:.5g}" if m else "-" for m in measured]
                yield [name, one["run"], *values, units[0]]


def draw(path: Path, runs: Sequence[TrainingRun]) -> None:
    """Loss and validation errors over the steps, a panel each, on a log axis.

    Raises:
        UsageError, StorageError: it cannot be written.
    """
    from matplotlib.figure import Figure

    curves = [_curves(run) for run in runs]
    titles = list(dict.fromkeys(title for one in curves for title in one))
    wide = min(WIDE, len(titles))
    rows = -(-len(titles) // wide)
    figure = Figure(figsize=(4.6 * wide, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).ravel()
    for axes, title in zip(panels, titles, strict=False):
        _panel(axes, title, [one.get(title, []) for one in curves])
    for axes in panels[len(titles) :]:
        axes.axis("off")
    names = [run.name for run in runs]
    figure.legend(panels[0].lines, names, loc="outside upper center", ncols=wide)
    figures.save(figure, path, dpi=130)


def _curves(run: TrainingRun) -> dict[str, Curve]:
    """What is drawn above which title."""
    units = {name: error["unit"] for name, error in run.header.get("valid", {}).items()}
    curves: dict[str, Curve] = {LOSS: []}
    for line in run.lines:
        if "loss" in line:
            curves[LOSS].append((line["step"], line["loss"]))
        for name, value in line.get("valid", {}).items():
            title = f"validation {name}" + (f" / {units[name]}" if units.get(name) else "")
            curves.setdefault(title, []).append((line["step"], value))
    return curves


def _panel(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    """A line a run, in its colour even where another has none."""
    for curve in curves:
        axes.plot([x for x, _ in curve], [y for _, y in curve], linewidth=1.0, marker=".")
    axes.set(xlabel="step", yscale="log")
    axes.set_title(title, fontsize=10)
