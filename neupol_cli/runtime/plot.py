"""Cost against atoms on logarithmic axes, as Fig. 6 of Koker et al. (arXiv 2312.05388)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import figures
from neupol_cli.runtime.job import Report
from neupol_cli.runtime.timing import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(path: str, reports: Sequence[Report], conditions: str) -> None:
    """Writes the picture: measured sizes as dots (hollow where scaled up), fits as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for index, report in enumerate(reports):
        if report["points"]:
            _draw(axes, report, f"C{index % 10}")
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="seconds a structure")
    axes.set_title(conditions, fontsize=8)
    axes.grid(True, which="major", color="0.9")
    if axes.lines or axes.collections:
        axes.legend(fontsize=8)
    figures.save(figure, path, dpi=150)


def _draw(axes: Axes, report: Report, colour: str) -> None:
    points = report["points"]
    atoms = [point["atoms"] for point in points]
    middle = np.array([point["median_s"] for point in points])
    low = middle - [min(point["seconds"]) for point in points]
    high = [max(point["seconds"]) for point in points] - middle
    axes.errorbar(atoms, middle, np.stack([low, high]), fmt="none", ecolor=colour, capsize=2)
    inside = ["white" if point.get("scaled") else colour for point in points]
    label = f"{report['model']}: {report['answers']}, {report['system']}"
    if report["fit"] is not None:
        law = Fit(**report["fit"])
        error = "" if law.error is None else f" ± {law.error:.2f}"
        label += f", N^{law.exponent:.2f}{error}"
        ends = np.array([law.smallest, law.largest])
        axes.plot(ends, law.factor * ends**law.exponent, color=colour, linewidth=1)
    axes.scatter(atoms, middle, c=inside, edgecolors=colour, label=label, zorder=3)
