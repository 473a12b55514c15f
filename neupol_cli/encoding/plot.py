"""Pictures of learned encodings: Figs. 1 to 4 of Gao et al. 2022 on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import figures
from neupol_cli.encoding.study import SHOWN, UNITS, Study, Tables, matrix, principal, profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase


def draw(path: str, studies: Sequence[Study], layer: int) -> None:
    """Writes the page: a row a table with its curves and its components, then all together.

    Errors: UsageError for another kind of picture.
    """
    from matplotlib.figure import Figure

    figures.check_name(path)
    rows = [(study, tables) for study in studies for tables in study.tables]
    figure = Figure(figsize=(10.5, 3.3 * len(rows) + 4.0), layout="constrained")
    heights = [3.3] * len(rows) + [4.0]
    parts = figure.subfigures(len(rows) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (study, tables) in zip(parts, rows, strict=False):
        _draw_table(part, study, tables, layer)
    _draw_together(parts[-1], studies, rows)
    figures.save(figure, path, dpi=150)


def _normalised(tables: Tables, layer: int = 0) -> np.ndarray:
    """(bins,) (x - x_min) / (x_max - x_min)."""
    x = tables.x[layer]
    return (x - x[0]) / (x[-1] - x[0])


def _axis(tables: Tables) -> str:
    low, high = tables.x[0, 0], tables.x[0, -1]
    unit = {"Angstrom": "Å", "rad": "rad"}[UNITS[tables.quantity]]
    return f"{tables.quantity} x̂ ({low:.3g} to {high:.3g} {unit})"


def _draw_table(part: FigureBase, study: Study, tables: Tables, layer: int) -> None:
    """Figs. 1 and 2: the first dimensions over the normalised quantity, and a plane of them."""
    k = min(layer, len(tables.x)) - 1
    of = f"{study.label}, {tables.quantity}, layer {k + 1} of {len(tables.x)}"
    left, right = part.subplots(1, 2, width_ratios=[1.6, 1])
    _draw_curves(left, tables, k)
    left.set_title(f"{of}: first {min(SHOWN, tables.heights.shape[2])} dimensions", fontsize=10)
    points, share = principal(tables.heights[k])
    right.plot(*points.T, color="0.8", linewidth=0.8, zorder=1)
    dots = right.scatter(*points.T, c=_normalised(tables, k), cmap="viridis", s=16, zorder=2)
    part.colorbar(dots, ax=right, label="x̂")
    right.set_title("principal components", fontsize=10)
    right.set(xlabel=f"first ({share[0]:.0%} of variance)", ylabel=f"second ({share[1]:.0%})")


def _draw_curves(axes: Axes, tables: Tables, k: int) -> None:
    from matplotlib import colormaps

    x = np.linspace(tables.x[k, 0], tables.x[k, -1], 600)
    curves = tables.at(x)[k, :, :SHOWN]
    shades = colormaps["tab10"](np.arange(curves.shape[1]) % 10)
    for j, curve in enumerate(curves.T):
        axes.plot(np.linspace(0, 1, len(x)), curve, color=shades[j], linewidth=1.2)
    axes.set(xlabel=_axis(tables), ylabel="h(x)", xlim=(0, 1))


def _draw_together(
    part: FigureBase, studies: Sequence[Study], rows: Sequence[tuple[Study, Tables]]
) -> None:
    """Figs. 3 and 4: profiles of the derivative, and who resembles whom."""
    several = len(studies) > 1
    left, *right = part.subplots(1, 2 if several else 1, squeeze=False)[0]
    for study, tables in rows:
        name = study.label if len(study.tables) == 1 else f"{study.label}, {tables.quantity}"
        left.plot(_normalised(tables), profile(tables), linewidth=1.6, label=name)
    left.set_title("where the encoding changes", fontsize=10)
    left.set(xlabel="x̂", ylabel="mean of |g(x)| / std g", xlim=(0, 1), ylim=(0, None))
    left.legend(fontsize=8, frameon=False)
    if several:
        _draw_matrix(part, right[0], studies)


def _draw_matrix(part: FigureBase, axes: Axes, studies: Sequence[Study]) -> None:
    values = np.array([[np.nan if v is None else v for v in row] for row in matrix(studies)])
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
    names = [study.label for study in studies]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            text = "-" if np.isnan(value) else f"{value:.2f}"
            light = np.isnan(value) or value > 0.55
            axes.text(j, i, text, ha="center", va="center", color="black" if light else "white")
    axes.set_title("similarity, mean ρ² of their dimensions", fontsize=10)
    part.colorbar(image, ax=axes, shrink=0.8)
