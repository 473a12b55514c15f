"""How a density varies around its atoms, and how that goes with a model's error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from neupol_cli.density import measures, on_grid
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5, volumetric
from neupol_cli.io.volumetric import Grid, Volume

COARSE = 0.25  # Angstrom: a longer step changes zeta visibly
BLOCK = 200_000  # points whose nearest atom is looked up at once


def gradient(volume: Volume) -> np.ndarray:
    """Gradient (n1, n2, n3, 3) of a density on its grid, e/Angstrom^4.

    Along periodic axes by Fourier series, which is exact for what the grid can hold; along others
    by fourth-order differences (second and first order next to the edges).
    """
    values = volume.values.astype(np.float64)
    along = []
    for axis, periodic in enumerate(volume.atoms.pbc):
        derivative = _fourier if periodic else _differences
        along.append(derivative(values, axis))
    # d/dx = sum over axes of (d index / d x) d/d index
    inverse = np.linalg.inv(volume.grid.step)  # (3, axis): d index / d x
    return np.stack(along, axis=-1) @ inverse.T


def _fourier(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative by the index along a periodic axis."""
    count = values.shape[axis]
    waves = 2j * np.pi * np.fft.rfftfreq(count)
    if count % 2 == 0:
        waves[-1] = 0.0  # the sine of the highest wave is not on the grid
    shape = [1, 1, 1]
    shape[axis] = len(waves)
    return np.fft.irfft(np.fft.rfft(values, axis=axis) * waves.reshape(shape), count, axis=axis)


def _differences(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative by the index along an axis that ends."""
    count = values.shape[axis]
    if count < 2:
        return np.zeros_like(values)
    found = np.gradient(values, axis=axis)
    if count >= 5:
        table, out = np.moveaxis(values, axis, 0), np.moveaxis(found, axis, 0)
        out[2:-2] = (8 * (table[3:-1] - table[1:-3]) - (table[4:] - table[:-4])) / 12
    return found


def angular_variation(volume: Volume) -> float:
    """zeta = 1 - sum |grad rho . r^| / sum ||grad rho||, r^ from the nearest atom.

    Zero when the density depends on the distance from the nearest atom alone, towards one when it
    turns around it. Koker et al., arXiv 2312.05388, eq. 6; all points of the grid.
    Most of both sums comes from close to the nuclei, so a coarse grid changes it: water's valence
    density has 0.115, 0.110 and 0.166 with steps of 0.1, 0.2 and 0.4 Angstrom.
    """
    slopes = gradient(volume).reshape(-1, 3)  # (P, 3)
    along = total = 0.0
    for start, directions in directions_from_atoms(volume.atoms, volume.grid):
        part = slopes[start : start + len(directions)]
        here = np.abs(directions).max(axis=1) > 0  # a point on a nucleus has no direction
        along += float(np.abs((part * directions).sum(axis=1)).sum())
        total += float(np.linalg.norm(part[here], axis=1).sum())
    if total == 0:
        raise InputError("the density is constant: it has no angular variation")
    return 1.0 - along / total


def directions_from_atoms(atoms: Atoms, grid: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """(first point, unit vectors (P, 3) from the nearest atom or image) of the grid in blocks."""
    from scipy.spatial import cKDTree

    images = _images(atoms)
    tree = cKDTree(images)
    inverse = np.linalg.pinv(_periodic(atoms)) if atoms.pbc.any() else None
    for start in range(0, grid.size, BLOCK):
        points = grid.points(start, min(start + BLOCK, grid.size))
        if inverse is not None:  # bring them where the images are
            points = points - np.floor(points @ inverse) @ _periodic(atoms)
        distances, nearest = tree.query(points)
        apart = points - images[nearest]
        lengths = np.where(distances > 1e-9, distances, np.inf)
        yield start, apart / lengths[:, None]


def _periodic(atoms: Atoms) -> np.ndarray:
    """The lattice vectors (k, 3) of the periodic directions."""
    return np.asarray(atoms.cell.array)[atoms.pbc]


def _images(atoms: Atoms) -> np.ndarray:
    """Atoms and every image that may be nearest to a point of the cell, (G, 3)."""
    if not atoms.pbc.any():
        return np.asarray(atoms.positions)
    vectors = _periodic(atoms)  # (k, 3)
    inverse = np.linalg.pinv(vectors)
    # No point of the cell is further from the images of an atom than half the vectors' sum.
    margins = 0.5 * np.linalg.norm(vectors, axis=1).sum() * np.linalg.norm(inverse, axis=0)  # (k,)
    points = atoms.positions - np.floor(atoms.positions @ inverse) @ vectors
    for axis, margin in enumerate(margins):
        shifts = np.arange(-np.ceil(margin), np.ceil(margin) + 1)
        points = (points[None] + shifts[:, None, None] * vectors[axis]).reshape(-1, 3)
        fraction = points @ inverse[:, axis]
        points = points[(fraction >= -margin) & (fraction <= 1 + margin)]
    return np.asarray(points)


@dataclass(frozen=True)
class Entry:
    """A density of a file: what it is called there, and the part of a dataset that it is in."""

    name: str
    volume: Volume
    split: str | None = None


def volumes(path: Path) -> Iterator[Entry]:
    """Every density in a cube, CHGCAR or HDF5 file."""
    if volumetric.format_of(str(path)) != "hdf5":
        yield Entry(str(path), volumetric.read(path))
        return
    dataset = hdf5.read(path)
    parts = next(iter(dataset.splits.values()), {})
    part = {int(index): name for name, indices in parts.items() for index in indices}
    for index in range(dataset.size):
        yield Entry(f"{path}[{index}]", volumetric.h5.volume_of(dataset, index), part.get(index))


# What a report of a density gains by a comparison.
Compare = Callable[[Entry], dict[str, Any]]


def analyse(path: Path, compare: Compare | None) -> Iterator[dict[str, Any]]:
    """A report of every density: electrons, extremes, zeta, and what comparing adds to it."""
    for entry in volumes(path):
        volume = entry.volume
        report: dict[str, Any] = {"structure": entry.name}
        report["formula"] = volume.atoms.get_chemical_formula()
        report |= {} if entry.split is None else {"split": entry.split}
        report["spacing_Angstrom"] = float(volume.grid.spacing.max())
        report |= {"points": volume.grid.size, "electrons_sum": volume.electrons}
        report |= {"lowest": float(volume.values.min()), "highest": float(volume.values.max())}
        report["zeta"] = angular_variation(volume)
        yield report | ({} if compare is None else compare(entry))


def with_file(reference: Path) -> Compare:
    """eps_mae against the true densities of a file, same structures in the same order, and their
    zeta."""
    others = volumes(reference)

    def compare(entry: Entry) -> dict[str, Any]:
        other = next(others, None)
        if other is None:
            raise InputError(f"{reference}: holds fewer densities than the file to analyse")
        if not np.array_equal(entry.volume.atoms.numbers, other.volume.atoms.numbers):
            raise InputError(f"{other.name}: holds other atoms than {entry.name}")
        error = measures.mean_absolute_error(entry.volume, other.volume)
        return {"eps_mae_percent": error, "zeta_reference": angular_variation(other.volume)}

    return compare


def with_model(model: Any, memory: int) -> Compare:
    """eps_mae of what a model predicts for the structures of a file of true densities."""

    def compare(entry: Entry) -> dict[str, Any]:
        atoms, grid = entry.volume.atoms, entry.volume.grid
        model.check([atoms], [entry.name])
        found = on_grid.predict(model, atoms, grid, memory, lambda done: None).volume
        return {"eps_mae_percent": measures.mean_absolute_error(found, entry.volume)}

    return compare


def summaries(reports: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each part of a dataset, or of the whole file: the mean eps_mae, and its correlation with
    the true density's zeta (Pearson, Spearman; of 3 or more)."""
    compared = [report for report in reports if "eps_mae_percent" in report]
    for split in dict.fromkeys(report.get("split") for report in compared):
        some = [report for report in compared if report.get("split") == split]
        zeta = np.array([each.get("zeta_reference", each["zeta"]) for each in some])
        error = np.array([each["eps_mae_percent"] for each in some])
        found: dict[str, Any] = {} if split is None else {"split": split}
        found |= {"structures": len(some), "mean_eps_mae_percent": float(error.mean())}
        yield found | _correlation(zeta, error)


def _correlation(zeta: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    from scipy.stats import pearsonr, spearmanr

    if len(zeta) < 3 or np.ptp(zeta) == 0 or np.ptp(error) == 0:
        return {}
    names = {"pearson": pearsonr, "spearman": spearmanr}
    found = {name: float(each(zeta, error).statistic) for name, each in names.items()}
    return {"correlation_zeta_eps_mae": found}


def summary_line(found: dict[str, Any]) -> str:
    """A summary for people."""
    count = found["structures"]
    who = f"{count:,} structure{'s' * (count > 1)}"
    who += f" of {found['split']}" if "split" in found else ""
    text = f"{who}: eps_mae {found['mean_eps_mae_percent']:.4f} % on average"
    told = found.get("correlation_zeta_eps_mae", {})
    worth = ", ".join(f"{name.capitalize()} {value:.4f}" for name, value in told.items())
    return text + (f"; with zeta: {worth}" if worth else "")


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A report for people."""
    yield f"{report['structure']}: {report['formula']}, {report['points']:,} points"
    yield f"  electrons  {report['electrons_sum']:.6f}, sum over the grid"
    yield f"  density    {report['lowest']:.3g} to {report['highest']:.4g} e/Angstrom^3"
    coarse = "; a coarse grid: good to 0.05" if report["spacing_Angstrom"] > COARSE else ""
    yield f"  zeta       {report['zeta']:.5f} (angular variation, 0: radial{coarse})"
    if "eps_mae_percent" in report:
        yield f"  eps_mae    {report['eps_mae_percent']:.4f} %"
    if "zeta_reference" in report:
        yield f"  zeta       {report['zeta_reference']:.5f} of the reference"
