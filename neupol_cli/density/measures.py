"""Numbers that a density on a grid gives: electrons, dipole, and how far two densities differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.units import DEBYE
from neupol_cli.io.volumetric import Grid, Volume

if TYPE_CHECKING:
    from neupol_cli.models.base import Header

_ROWS = 64  # planes of a grid that are taken to float64 at once


def subgrids(volume: Volume) -> list[Volume]:
    """The same density on every second point along each axis: up to eight coarser grids.

    An odd number of points along a periodic axis has no such half; then that axis stays whole.
    """
    periodic = bool(volume.atoms.pbc.any())
    strides = [2 if n >= 4 and (n % 2 == 0 or not periodic) else 1 for n in volume.grid.shape]
    halves = []
    for start in product(*[range(stride) for stride in strides]):
        values = volume.values[
            tuple(slice(i, None, n) for i, n in zip(start, strides, strict=True))
        ]
        n1, n2, n3 = values.shape
        step = volume.grid.step * np.array(strides)[:, None]
        origin = volume.grid.origin + np.array(start) @ volume.grid.step
        halves.append(Volume(volume.atoms, Grid(origin, step, (n1, n2, n3)), values))
    return halves


def grid_errors(volume: Volume, charges: np.ndarray | None) -> tuple[float, float | None]:
    """How far the grid's own sums may be off: electrons, and (with charges) the dipole in Debye.

    A sum over points is a rectangle rule; near a nucleus the density is sharper than a coarse step
    can follow. The standard deviation s of the sums over every second point says how far a step of
    twice the length is off; the step itself is off by about s min(1/sqrt(8), 6 s/N), which was
    calibrated on valence densities (GTH, PBE) with steps of 0.1 to 0.4 Angstrom: it was the true
    error within a factor of two at 0.4 (there 0.5 % of the electrons), and too cautious at 0.2.
    Infinite where the grid cannot be halved.
    """
    halves = subgrids(volume)
    if len(halves) == 1:
        return float("inf"), None if charges is None else float("inf")
    electrons = np.array([half.electrons for half in halves])
    spread = float(electrons.std())
    shrink = min(1 / np.sqrt(8), 6 * spread / max(abs(volume.electrons), 1e-12))
    if charges is None or not electrons.all():
        return spread * shrink, None
    total = charges.sum()
    moments = np.array([dipole(half, charges, total / half.electrons) for half in halves])
    return spread * shrink, float(np.linalg.norm(moments.std(axis=0))) * shrink


def spin_grid_error(volume: Volume) -> float | None:
    """How far the grid's sum of the spin density may be off, electrons; None without spin.

    As :func:`grid_errors` says of the total density.
    """
    if volume.spin is None:
        return None
    return grid_errors(replace(volume, values=volume.spin, spin=None), None)[0]


def dipole(volume: Volume, charges: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Dipole moment (3,) in Debye, from the ions' charges (A,) e and minus `factor` x density.

    The origin is the centre of ionic charge. For a neutral whole it does not matter; a density
    whose sum is not the ions' charge should be brought there by `factor`.
    """
    center = charges @ volume.atoms.positions / charges.sum()  # (3,)
    electronic = first_moment(volume) - volume.electrons * center
    return np.asarray(-factor * electronic / DEBYE)


def first_moment(volume: Volume) -> np.ndarray:
    """Integral of density times position, (3,) e Angstrom."""
    values, grid = volume.values, volume.grid
    along = [values.sum(axis=axes, dtype=np.float64) for axes in ((1, 2), (0, 2), (0, 1))]
    indices = np.array([line @ np.arange(len(line)) for line in along])  # (3,)
    return np.asarray((along[0].sum() * grid.origin + indices @ grid.step) * grid.element)


def mean_absolute_error(volume: Volume, reference: Volume) -> float:
    """eps_mae = sum |rho - rho_ref| / sum |rho_ref| over the grid, in percent.

    Koker et al., arXiv 2312.05388, eq. 5.

    Raises:
        InputError: the grids differ, or the reference is zero everywhere.
    """
    check_same_grid(volume, reference)
    error = _ratio(volume.values, reference.values)
    if error is None:
        raise InputError("the reference density is zero everywhere")
    return error


def spin_error(volume: Volume, reference: Volume) -> float | None:
    """sum |s - s_ref| / sum |s_ref| of the spin densities over the grid, in percent.

    None where one of the two has no spin, or the reference's is zero everywhere, as of a closed
    shell. Both are on the same grid.
    """
    if volume.spin is None or reference.spin is None:
        return None
    return _ratio(volume.spin, reference.spin)


def _ratio(values: np.ndarray, reference: np.ndarray) -> float | None:
    """sum |values - reference| / sum |reference| in percent; None of a reference of zeros."""
    error = weight = 0.0
    for start in range(0, len(reference), _ROWS):
        rows = slice(start, start + _ROWS)
        expected = reference[rows].astype(np.float64)
        error += float(np.abs(values[rows] - expected).sum())
        weight += float(np.abs(expected).sum())
    return 100.0 * error / weight if weight else None


def check_same_grid(volume: Volume, reference: Volume) -> None:
    """Whether two densities can be compared.

    Raises:
        InputError: they are not on one grid.
    """
    if not volume.grid.same_as(reference.grid):
        raise InputError(
            f"the grids differ: {volume.grid.shape} points and {reference.grid.shape} in the "
            "reference, or another origin or step; take the reference's own (--grid-from)"
        )


def valence_of(header: Header) -> dict[int, float]:
    """Electrons that each element brings in a model's convention, by atomic number.

    From the model's header, ``{"valence": {"C": 4}}``; empty when it does not say.
    """
    table = header.get("valence") or {}
    return {atomic_numbers.get(str(key)) or int(key): float(n) for key, n in table.items()}


def charges_of(atoms: Atoms, valence: Mapping[int, float]) -> np.ndarray | None:
    """Ionic charges (A,) e; None when the model does not say them for every element."""
    if not all(int(number) in valence for number in atoms.numbers):
        return None
    return np.array([valence[int(number)] for number in atoms.numbers])


def expected_electrons(
    charges: np.ndarray | None, given: float | None, charge: int = 0
) -> float | None:
    """What the density should integrate to: as given, or of the structure with that charge."""
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise UsageError(f"--electrons must be a positive number, not {given}")
        return given
    return None if charges is None else float(charges.sum()) - charge


def normalization(volume: Volume, electrons: float | None) -> float:
    """The factor that makes the grid's sum `electrons`.

    Raises:
        UsageError: nobody says how many there should be.
        InputError: a density without any.
    """
    if electrons is None:
        raise UsageError(
            "--normalize: this model does not say its valence electrons; add --electrons N"
        )
    total = volume.electrons
    if not total > 0:
        raise InputError(f"a density of {total:.3g} electrons cannot be normalised")
    return electrons / total


def scale(values: np.ndarray, factor: float) -> None:
    """Multiply a grid (n1, n2, n3) in place. The product is made in float64: a factor rounded to
    float32 would be off by up to 6e-8, and sixty electrons by 4e-6."""
    for plane in values:
        plane[...] = plane.astype(np.float64) * factor
