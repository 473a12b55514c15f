"""The forms in which errors leave: a table, tab-separated or JSON lines, a CSV of all values, a
picture."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import figures, provenance
from neupol_cli.io import said
from neupol_cli.io.files import atomic
from neupol_cli.prediction.evaluation import Compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# key of a record -> heading; those that no record has are left out
COLUMNS = {
    "file": "file",
    "split": "split",
    "label": "label",
    "unit": "unit",
    "values": "values",
    "mean_absolute": "mean abs.",
    "root_mean_square": "root mean sq.",
    "mean": "mean",
    "largest": "largest",
    "largest_at": "at structure",
    "largest_at_info": "its info",
    "mean_spread": "spread",
    "spearman_spread_error": "rank corr.",
    "mean_uncertainty": "uncertainty",
    "within_uncertainty": "within it",
    "spearman_uncertainty_error": "rank corr.",
}
WIDE = 4  # panels side by side
MANY = 3000  # values from which on a panel counts them in cells


def json_lines(comparisons: Iterable[Compared]) -> None:
    """One object a label and split."""
    for compared in comparisons:
        print(json.dumps(provenance.stamped(compared.record())), flush=True)


def table(comparisons: Sequence[Compared]) -> None:
    """Aligned on a terminal, without what is known of structures besides; tab-separated into a
    pipe."""
    from rich.table import Table

    from neupol_cli.console import stdout

    records = [compared.record() for compared in comparisons]
    left_out = ["largest_at_info"] * sys.stdout.isatty()
    keys = [k for k in COLUMNS if k not in left_out and any(k in record for record in records)]
    rows = [[_cell(record.get(key)) for key in keys] for record in records]
    heads = [COLUMNS[key] for key in keys]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [heads, *rows]))
        return
    grid = Table(box=None, pad_edge=False)
    for key, head in zip(keys, heads, strict=True):
        grid.add_column(head, justify="left" if isinstance(records[0].get(key), str) else "right")
    for row in rows:
        grid.add_row(*row)
    stdout().print(grid)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return said.text(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def csv_file(path: Path, comparisons: Sequence[Compared]) -> None:
    """Every value that was compared: file, structure, split, label, unit, prediction, label, and
    columns for what is known of the structure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    infos = [c.info_of(int(structure)) for c in comparisons for structure in c.structures]
    rows = said.with_columns(list(_values(comparisons)), infos)
    writer.writerows(provenance.in_column(rows))
    with atomic(path) as partial:
        partial.write_text(text.getvalue())


def _values(comparisons: Iterable[Compared]) -> Iterator[list[str]]:
    yield ["file", "structure", "split", "label", "unit", "predicted", "reference"]
    for c in comparisons:
        for row in zip(c.structures, c.predicted, c.reference, strict=True):
            index, predicted, reference = row
            head = [c.file, str(index), c.split, c.label, c.unit]
            yield [*head, f"{predicted:.10g}", f"{reference:.10g}"]


def draw(path: Path, comparisons: Sequence[Compared]) -> None:
    """The errors over the labels, a panel a label and split."""
    from matplotlib.figure import Figure

    wide = min(WIDE, len(comparisons))
    rows = -(-len(comparisons) // wide)
    figure = Figure(figsize=(3.6 * wide, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).ravel()
    for axes, compared in zip(panels, comparisons, strict=False):
        _panel(axes, compared)
    for axes in panels[len(comparisons) :]:
        axes.axis("off")
    figures.save(figure, path, dpi=150)


def _panel(axes: Axes, compared: Compared) -> None:
    errors = compared.errors
    if len(errors) < MANY:
        axes.scatter(compared.reference, errors, s=6, alpha=0.5, linewidths=0)
    else:
        axes.hexbin(compared.reference, errors, gridsize=60, bins="log", mincnt=1, cmap="viridis")
    axes.axhline(0.0, color="0.5", linewidth=0.8, zorder=0)
    size = float(np.abs(errors).max()) or 1.0
    axes.set(ylim=(-1.05 * size, 1.05 * size))
    axes.set(
        xlabel=f"{compared.label} ({compared.unit})",
        ylabel=f"predicted - reference ({compared.unit})",
    )
    axes.locator_params(axis="x", nbins=5)  # total energies have long names
    which = f"{compared.split}, " if compared.split else ""
    axes.set_title(f"{which}mean abs. {np.abs(errors).mean():.3g} {compared.unit}", fontsize=9)
