"""The potential on a molecule's surface, where its density is 0.001 e/bohr^3.

Averages are over the area. With the variances s+^2, s-^2 of positive and negative values about
their own averages, s^2 = s+^2 + s-^2, the balance is nu = s+^2 s-^2 / (s^2)^2, and Pi is the
average deviation from the overall average (Murray and Politzer, J. Mol. Struct. THEOCHEM 307, 55,
1994; WIREs Comput. Mol. Sci. 1, 153, 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.units import BOHR, KCALMOL
from neupol_cli.io.volumetric import Volume

LEVEL = 0.001  # e/bohr^3
NOTHING = 1e-4  # of the level; no logarithm is taken of less
INSIDE = 0.5  # Angstrom: so near to a nucleus is no surface, though its valence electrons leave it


@dataclass(frozen=True)
class Extremum:
    """A lowest or highest value: kcal/mol/e, where it is (Angstrom), the nearest atom from 0."""

    value: float
    place: list[float]
    atom: int

    def as_json(self) -> dict[str, object]:
        """All of it."""
        return {"value": self.value, "place_Angstrom": self.place, "nearest_atom": self.atom}


@dataclass(frozen=True, kw_only=True)
class SurfacePotential:
    """The numbers of a surface: kcal/mol/e, and variances in its square; ``balance`` is nu and
    ``deviation`` Pi. Averages and variances of a sign that no value has are zero."""

    area_Angstrom2: float
    lowest: Extremum
    highest: Extremum
    average: float
    average_positive: float
    average_negative: float
    variance_positive: float
    variance_negative: float
    balance: float
    deviation: float

    @property
    def variance(self) -> float:
        """The sum of both."""
        return self.variance_positive + self.variance_negative

    def as_json(self) -> dict[str, object]:
        """All of them, with their units."""
        extremes = {"lowest": self.lowest.as_json(), "highest": self.highest.as_json()}
        units = {"unit": "kcal/mol/e", "level_e_per_bohr3": LEVEL}
        return units | vars(self) | extremes | {"variance": self.variance}


@dataclass(frozen=True, eq=False)
class Surface:
    """Of triangles: points (P, 3) Angstrom, three of them (T, 3) and the area (T,) of each."""

    points: np.ndarray
    triangles: np.ndarray
    areas: np.ndarray


def require() -> None:
    """UsageError where scikit-image is missing."""
    try:
        import skimage.measure  # noqa: F401
    except ImportError as trouble:
        raise UsageError(
            "--surface: scikit-image is not installed: pip install 'neupol[surface]'"
        ) from trouble


def isosurface(volume: Volume) -> Surface:
    """Where a molecule's density has the LEVEL, by marching cubes on its logarithm, which is almost
    a straight line from point to point.

    Raises:
        InputError: the density is periodic, has that value nowhere, or at the grid's faces.
    """
    from skimage.measure import marching_cubes

    if volume.atoms.pbc.any():
        raise InputError("--surface: only a molecule has one; this structure is periodic")
    least = LEVEL / BOHR**3
    values = _filled(volume, least)
    faces = [np.take(values, end, axis) for axis in range(3) for end in (0, -1)]
    if max(face.max() for face in faces) >= least:
        raise InputError(
            f"--surface: the density has {LEVEL:g} e/bohr^3 at the grid's faces; take a larger "
            "--margin"
        )
    if values.max() <= least:
        raise InputError(f"--surface: the density has {LEVEL:g} e/bohr^3 nowhere")
    logarithms = np.log(np.maximum(values, NOTHING * least))
    corners, triangles, _, _ = marching_cubes(logarithms, np.log(least))
    points = volume.grid.origin + corners @ volume.grid.step
    return Surface(points, triangles, _areas(points, triangles))


def _filled(volume: Volume, least: float) -> np.ndarray:
    """The density, without holes at the nuclei."""
    grid = volume.grid
    values = volume.values.astype(np.float64).ravel()
    low = np.flatnonzero(values <= least)
    places = grid.origin + np.stack(np.unravel_index(low, grid.shape), axis=-1) @ grid.step
    apart = cKDTree(volume.atoms.positions).query(places)[0]
    values[low[apart < INSIDE]] = 2 * least
    return values.reshape(grid.shape)


def _areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    first, second, third = points[triangles].transpose(1, 0, 2)
    return np.asarray(np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2)


def on_surface(values: np.ndarray, surface: Surface, atoms: Atoms) -> SurfacePotential:
    """The numbers of a potential (P,) V at a surface's points."""
    values, areas = values / KCALMOL, surface.areas
    means = values[surface.triangles].mean(axis=1)
    average, _ = _spread(means, areas)
    above, below = (_spread(means[part], areas[part]) for part in (means > 0, means < 0))
    variance = above[1] + below[1]
    return SurfacePotential(
        area_Angstrom2=float(areas.sum()),
        lowest=_extremum(int(values.argmin()), values, surface, atoms),
        highest=_extremum(int(values.argmax()), values, surface, atoms),
        average=average,
        average_positive=above[0],
        average_negative=below[0],
        variance_positive=above[1],
        variance_negative=below[1],
        balance=above[1] * below[1] / variance**2 if variance > 0 else 0.0,
        deviation=float(np.average(np.abs(means - average), weights=areas)),
    )


def _spread(values: np.ndarray, areas: np.ndarray) -> tuple[float, float]:
    """Average and variance; both zero where there is no area."""
    if not areas.sum() > 0:
        return 0.0, 0.0
    average = float(np.average(values, weights=areas))
    return average, float(np.average((values - average) ** 2, weights=areas))


def _extremum(index: int, values: np.ndarray, surface: Surface, atoms: Atoms) -> Extremum:
    place = surface.points[index]
    atom = int(np.linalg.norm(atoms.positions - place, axis=1).argmin())
    return Extremum(float(values[index]), place.tolist(), atom)
