"""Slices through a density: the plane that most atoms lie in, and the one across it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from neupol_cli import figures
from neupol_cli.density.on_grid import Predicted, sampler
from neupol_cli.io.volumetric import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

    from neupol_cli.models.density.model import DensityModel

Sampler = Callable[[np.ndarray], np.ndarray]  # (P, 3) Angstrom -> (P,) e/Angstrom^3

STEP = 0.03  # Angstrom between the points of a picture
POINTS = 250_000  # of one picture at most: larger structures get a longer step
MARGIN = 2.2  # Angstrom around the atoms
LOW = 3e-3  # e/Angstrom^3, where the colours of a density begin
NEAR = 0.35  # Angstrom: an atom this close to a plane lies in it


@dataclass(frozen=True)
class Plane:
    """A rectangle: origin (3,) plus a in low[0]..high[0] along u, b likewise along v; Angstrom."""

    name: str
    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (3,) across the plane."""
        return np.cross(self.u, self.v)

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The points' coordinates along u and v."""
        lengths = self.high - self.low
        step = max(STEP, float(np.sqrt(lengths.prod() / POINTS)))
        counts = np.maximum(2, np.ceil(lengths / step).astype(int))
        first, second = (np.linspace(self.low[i], self.high[i], counts[i]) for i in (0, 1))
        return first, second

    def points(self) -> np.ndarray:
        """(P, 3) points, those along u fastest."""
        a, b = np.meshgrid(*self.axes())
        return np.asarray(self.origin + a.reshape(-1, 1) * self.u + b.reshape(-1, 1) * self.v)

    def seen(self, positions: np.ndarray) -> np.ndarray:
        """(A, 3): coordinates along u and v, and distance from the plane."""
        return np.asarray(
            (positions - self.origin) @ np.stack([self.u, self.v, self.normal], axis=1)
        )


@dataclass(frozen=True)
class Panel:
    """One picture: values (P,) on the plane's points; signed ones get a diverging scale."""

    plane: Plane
    title: str
    values: np.ndarray
    signed: bool = False


def planes(atoms: Atoms) -> list[Plane]:
    """Two planes: the one with most atoms, and the one across it along its longer direction."""
    if atoms.pbc.any():
        return _cell_planes(atoms)
    positions = atoms.positions
    center, normal = _best_plane(atoms)
    flat = positions - center
    flat = flat - np.outer(flat @ normal, normal)
    long = np.linalg.svd(flat)[2][0] if np.abs(flat).max() > 1e-6 else _across(normal)
    long = long - (long @ normal) * normal
    long /= np.linalg.norm(long)
    second = np.cross(normal, long)
    return [
        _plane("in the plane of most atoms", center, long, second, positions),
        _plane("across it", center, long, normal, positions),
    ]


def _best_plane(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """A point and the unit normal of the plane that holds most of the atoms' weight."""
    positions, weights = atoms.positions, 1.0 + (atoms.numbers > 1)
    center = positions.mean(axis=0)
    candidates = [(center, np.linalg.svd(positions - center)[2][2])]
    if len(atoms) < 3:
        return candidates[0]
    heavy = np.flatnonzero(atoms.numbers > 1)
    chosen = heavy if len(heavy) >= 3 else np.arange(len(atoms))
    for i, j, k in combinations(chosen[:30], 3):
        normal = np.cross(positions[j] - positions[i], positions[k] - positions[i])
        length = np.linalg.norm(normal)
        if length > 0.5:
            candidates.append((positions[i], normal / length))
    scores = []
    for point, normal in candidates:
        distances = np.abs((positions - point) @ normal)
        scores.append(weights[distances < NEAR].sum() - 1e-3 * distances.sum())
    point, normal = candidates[int(np.argmax(scores))]
    return center - ((center - point) @ normal) * normal, normal


def _across(normal: np.ndarray) -> np.ndarray:
    """Any unit vector at right angles to another."""
    other = np.eye(3)[int(np.argmin(np.abs(normal)))]
    across = np.cross(normal, other)
    return np.asarray(across / np.linalg.norm(across))


def _plane(name: str, origin: np.ndarray, u: np.ndarray, v: np.ndarray, shown: np.ndarray) -> Plane:
    flat = (shown - origin) @ np.stack([u, v], axis=1)
    return Plane(name, origin, u, v, flat.min(axis=0) - MARGIN, flat.max(axis=0) + MARGIN)


def _cell_planes(atoms: Atoms) -> list[Plane]:
    """Planes through the heaviest atom, along a and b, and along a and c."""
    from ase.geometry import complete_cell

    cell = np.asarray(complete_cell(atoms.cell.array))
    origin = atoms.positions[int(np.argmax(atoms.numbers))]
    both = []
    for name, other in (("along a and b", 1), ("along a and c", 2)):
        u = cell[0] / np.linalg.norm(cell[0])
        v = cell[other] - (cell[other] @ u) * u
        v /= np.linalg.norm(v)
        corners = np.array(
            [i * cell[0] + j * cell[other] for i in (-0.5, 0.75) for j in (-0.5, 0.75)]
        )
        flat = corners @ np.stack([u, v], axis=1)
        both.append(Plane(name, origin, u, v, flat.min(axis=0), flat.max(axis=0)))
    return both


def interpolated(volume: Volume) -> Sampler:
    """Cubic splines through a volume's values; outside a molecule's grid the density is zero."""
    from scipy.ndimage import map_coordinates, spline_filter

    inverse = np.linalg.inv(volume.grid.step)
    mode = "grid-wrap" if volume.atoms.pbc.all() else "constant"
    table = spline_filter(
        volume.values.astype(np.float64), mode=mode if mode != "constant" else "mirror"
    )

    def sample(points: np.ndarray) -> np.ndarray:
        index = (points - volume.grid.origin) @ inverse  # (P, 3)
        return np.asarray(map_coordinates(table, index.T, mode=mode, prefilter=False))

    return sample


def draw_density(
    path: str,
    model: DensityModel,
    predicted: Predicted,
    factor: float,
    reference: Volume | None,
) -> None:
    """Two slices of a density; one more of the spin density, and of the difference.

    Args:
        path: the picture's file.
        model: makes the density at the picture's own points.
        predicted: the density on its grid.
        factor: what that was multiplied by since.
        reference: a density on the same grid.
    """
    volume, atoms = predicted.volume, predicted.volume.atoms
    slices = planes(atoms)
    density_at = sampler(model, predicted.features, factor)
    panels = [Panel(plane, plane.name, density_at(plane.points())) for plane in slices]
    signed = {}
    if volume.spin is not None:
        signed["spin density, up minus down"] = volume.spin
    if reference is not None:
        signed["predicted minus reference"] = volume.values - reference.values
    for title, values in signed.items():
        value_at = interpolated(replace(volume, values=values, spin=None))
        panels.append(Panel(slices[0], title, value_at(slices[0].points()), signed=True))
    draw(path, atoms, panels, f"{atoms.get_chemical_formula()}: electron density")


def draw(path: str, atoms: Atoms, panels: list[Panel], title: str) -> None:
    """Write the panels side by side, with atoms, contours and colour bars with their unit.

    All panels of the density share one scale.

    Raises:
        UsageError: another kind of picture.
    """
    from matplotlib.figure import Figure

    figures.check_name(path)
    spans = np.array([panel.plane.high - panel.plane.low for panel in panels])  # (n, 2) Angstrom
    scale = min(0.9, 4.4 / float(spans.max()))  # inches an Angstrom
    size = (scale * float(spans[:, 0].sum()) + 1.25 * len(panels), scale * spans[:, 1].max() + 1.35)
    figure = Figure(figsize=size, layout="constrained")
    widths: list[float] = spans[:, 0].tolist()
    row = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    plain = [panel.values.max() for panel in panels if not panel.signed]
    high = max([10 * LOW, *[float(value) for value in plain]])
    for axes, panel in zip(row, panels, strict=True):
        image = _draw_panel(axes, atoms, panel, high)
        label = "e/Å³" if panel.signed else "electron density, e/Å³"
        extend = "both" if panel.signed else "min"
        figure.colorbar(image, ax=axes, label=label, shrink=0.9, pad=0.02, extend=extend)
    note = "contours at 0.01, 0.02, 0.04 … e/Å³"
    figure.suptitle(f"{title} ({note})", fontsize=12, x=0.01, ha="left")
    figures.save(figure, path, dpi=200)


def _draw_panel(axes: Axes, atoms: Atoms, panel: Panel, high: float) -> QuadMesh:
    first, second = panel.plane.axes()
    values = panel.values.reshape(len(second), len(first))
    if panel.signed:
        image = _paint_signed(axes, first, second, values)
    else:
        image = _paint_density(axes, first, second, values, high)
    _draw_atoms(axes, atoms, panel.plane)
    axes.set(title=panel.title, xlabel="Å", ylabel="Å", aspect="equal")
    axes.set_xlim(first[0], first[-1])
    axes.set_ylim(second[0], second[-1])
    axes.title.set_fontsize(11)
    return image


def _paint_density(
    axes: Axes, first: np.ndarray, second: np.ndarray, values: np.ndarray, high: float
) -> QuadMesh:
    """Logarithmic colours, because a density falls by orders of magnitude; contours double."""
    from matplotlib.colors import LogNorm

    shown = np.maximum(values, 0.1 * LOW)
    image = axes.pcolormesh(
        first, second, shown, norm=LogNorm(LOW, high), cmap="GnBu", shading="gouraud"
    )
    image.set_rasterized(True)
    levels = 0.01 * 2.0 ** np.arange(0, 14)
    # Dark lines on the light outside, light ones on the dark inside.
    for chosen, color in ((levels[:6], "#26303a"), (levels[6:], "#ffffff")):
        chosen = chosen[chosen < values.max()]
        if len(chosen):
            axes.contour(first, second, shown, levels=chosen, colors=color, linewidths=0.6)
    return image


def _paint_signed(
    axes: Axes, first: np.ndarray, second: np.ndarray, values: np.ndarray
) -> QuadMesh:
    """Red above zero, blue below, white at zero; the scale leaves out the last 0.5 %."""
    bound = float(np.percentile(np.abs(values), 99.5)) or 1.0
    image = axes.pcolormesh(
        first, second, values, vmin=-bound, vmax=bound, cmap="RdBu_r", shading="gouraud"
    )
    image.set_rasterized(True)
    return image


def _draw_atoms(axes: Axes, atoms: Atoms, plane: Plane) -> None:
    """Atoms in the plane by their symbols, joined by bonds; others faintly, where they project."""
    projected = plane.seen(atoms.positions)
    inside = np.abs(projected[:, 2]) < NEAR
    radii = covalent_radii[atoms.numbers]
    for i, j in combinations(np.flatnonzero(inside), 2):
        if np.linalg.norm(atoms.positions[i] - atoms.positions[j]) < 1.25 * (radii[i] + radii[j]):
            axes.plot(*projected[[i, j], :2].T, color="#26303a", lw=1.0, alpha=0.55, zorder=3)
    faint = projected[~inside & (np.abs(projected[:, 2]) < 2.0)]
    axes.plot(faint[:, 0], faint[:, 1], "o", ms=3, mfc="none", mec="#26303a", alpha=0.35, zorder=3)
    disc = {"boxstyle": "circle,pad=0.18", "fc": "white", "ec": "#26303a", "lw": 0.7, "alpha": 0.9}
    for index in np.flatnonzero(inside):
        symbol = chemical_symbols[atoms.numbers[index]]
        text = axes.text(projected[index, 0], projected[index, 1], symbol, ha="center", va="center")
        text.set(fontsize=8.5, fontweight="bold", color="#111820", clip_on=True, zorder=4)
        text.set_bbox(disc)
