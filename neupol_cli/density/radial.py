"""A density against the distance from the nearest atom (Koker et al., arXiv 2312.05388, Figure 4).

Where a density is a function of that distance alone, its points lie on one line, and zeta is zero;
where it turns around its atoms, they spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli import figures
from neupol_cli.density.analysis import vectors_from_atoms
from neupol_cli.io.volumetric import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.05  # Angstrom of a bin
LOWEST = -5.0  # log10 of the least density that is drawn
LEVELS = 120  # bins of the density's logarithm
MOST = 6  # densities of one picture


@dataclass(frozen=True)
class RadialProfile:
    """One density by distance from the nearest atom, in D bins of ``STEP``.

    Attributes:
        edges: (D + 1,) Angstrom.
        levels: (L + 1,) edges of log10 of the density in e/Angstrom^3.
        counts: (D, L) points of the true density, or of the only one.
        electrons: (D,) that the bin holds.
        errors: (D,) the integral of |rho - rho^| over the bin, or None.
    """

    edges: np.ndarray
    levels: np.ndarray
    counts: np.ndarray
    electrons: np.ndarray
    errors: np.ndarray | None = None

    @classmethod
    def of(cls, judged: Volume, truth: Volume | None = None) -> RadialProfile:
        """The profile of a density, or of the true one with the errors of another.

        Args:
            judged, truth: on the same grid.
        """
        shown = judged if truth is None else truth
        values = shown.values.reshape(-1).astype(np.float64)
        distances = np.empty(len(values))
        for start, vectors in vectors_from_atoms(shown.atoms, shown.grid):
            distances[start : start + len(vectors)] = np.linalg.norm(vectors, axis=1)
        edges = np.arange(int(distances.max() / STEP) + 2) * STEP
        logarithms = np.log10(np.maximum(values, 10.0 ** (LOWEST - 1)))  # which no bin counts
        levels = np.linspace(LOWEST, max(logarithms.max(), LOWEST + 1) + 0.1, LEVELS + 1)
        counts, _, _ = np.histogram2d(distances, logarithms, (edges, levels))
        volume = abs(np.linalg.det(shown.grid.step))

        def summed(weights: np.ndarray) -> np.ndarray:
            return np.asarray(np.histogram(distances, edges, weights=weights)[0]) * volume

        errors = None
        if truth is not None:
            errors = summed(np.abs(judged.values.reshape(-1).astype(np.float64) - values))
        return cls(edges, levels, counts, summed(values), errors)

    @property
    def error_percent(self) -> np.ndarray | None:
        """(D,) what each bin adds to eps_mae, percent; their sum is eps_mae of a density that is
        nowhere negative."""
        return None if self.errors is None else 100 * self.errors / self.electrons.sum()

    def as_json(self) -> dict[str, object]:
        """Electrons and errors by distance, with their units."""
        values: dict[str, object] = {
            "step_Angstrom": STEP,
            "electrons": self.electrons.tolist(),
        }
        if self.error_percent is not None:
            values["eps_mae_parts_percent"] = self.error_percent.tolist()
        return values


def draw(profiles: Sequence[tuple[str, RadialProfile]], path: Path) -> None:
    """Writes a picture with a row for each named density: its points, and errors if any."""
    import matplotlib.figure

    columns = 1 + any(profile.errors is not None for _, profile in profiles)
    size = (5.5 * columns, 3.2 * len(profiles))
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(profiles), columns, squeeze=False)
    for row, (name, profile) in zip(axes, profiles, strict=True):
        _points(row[0], profile, name)
        if columns == 2:
            _errors(row[1], profile)
    figures.save(figure, path, dpi=130)


def drawing(profile: RadialProfile) -> bytes:
    """An SVG of a density's points and below them its errors, which it has."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(4.6, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1)
    _points(above, profile, "")
    _errors(below, profile)
    return figures.svg(figure, dpi=130)


def _points(axes: Axes, profile: RadialProfile, name: str) -> None:
    shown = np.log10(np.where(profile.counts > 0, profile.counts, np.nan)).T
    reached = np.flatnonzero(profile.counts.sum(1))
    reach = profile.edges[reached[-1] + 1 if len(reached) else -1]
    axes.pcolormesh(profile.edges, 10.0**profile.levels, shown, cmap="viridis", rasterized=True)
    axes.set(yscale="log", title=name, xlabel="distance from the nearest atom / Å")
    axes.set(ylabel="density / e Å$^{-3}$", xlim=(0, reach))


def _errors(axes: Axes, profile: RadialProfile) -> None:
    percent = profile.error_percent
    if percent is None:
        axes.set_axis_off()
        return
    axes.stairs(np.cumsum(percent), profile.edges, color="tab:red", label="up to here")
    axes.stairs(percent, profile.edges, color="tab:red", fill=True, alpha=0.3, label="here")
    axes.set(xlabel="distance from the nearest atom / Å", ylabel=r"$\epsilon_{mae}$ / %")
    axes.legend(frameon=False)
