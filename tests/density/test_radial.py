"""A density against the distance from the nearest atom, and where its errors lie."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest

from neupol_cli.density.measures import mean_absolute_error
from neupol_cli.density.radial import STEP, RadialProfile
from neupol_cli.io.volumetric import Grid, Volume
from tests.warm import neupol

SIDE, SPACING = 41, 0.2


def gaussian(width: float) -> Volume:
    """One atom in the middle of a cube, its density exp(-width r^2)."""
    grid = Grid(np.full(3, -4.0), np.diag([SPACING] * 3), (SIDE,) * 3)
    points = grid.points(0, grid.size)
    values = np.exp(-width * (points**2).sum(1)).reshape(grid.shape)
    return Volume(ase.Atoms("H", [[0, 0, 0]]), grid, values)


def test_a_spherical_density_is_a_line() -> None:
    profile = RadialProfile.of(gaussian(0.5))
    for column, left in zip(profile.counts, profile.edges, strict=False):
        levels = np.flatnonzero(column)
        if len(levels):
            inner, outer = (-0.5 * r**2 / np.log(10) for r in (left, left + STEP))
            assert profile.levels[levels[-1]] <= inner + 1e-9
            assert profile.levels[levels[0] + 1] >= outer - 1e-9


def test_bins_add_up_to_electrons_and_errors() -> None:
    judged, truth = gaussian(0.55), gaussian(0.5)
    profile = RadialProfile.of(judged, truth)
    assert profile.electrons.sum() == pytest.approx(truth.electrons, rel=0, abs=1e-9)
    assert profile.error_percent is not None
    whole = mean_absolute_error(judged, truth)
    assert profile.error_percent.sum() == pytest.approx(whole, rel=0, abs=1e-9)
    within = np.linalg.norm(truth.grid.points(0, truth.grid.size), axis=1) < 20 * STEP
    apart = np.abs(judged.values - truth.values).reshape(-1)
    share = 100 * apart[within].sum() / truth.values.sum()
    assert profile.error_percent[:20].sum() == pytest.approx(share, rel=0, abs=1e-9)


def test_nearest_images_count() -> None:
    """A cell with its atom in a corner: no point is further than half of the diagonal."""
    grid = Grid(np.zeros(3), np.diag([0.5] * 3), (8, 8, 8))
    atoms = ase.Atoms("H", [[0, 0, 0]], cell=[4.0] * 3, pbc=True)
    profile = RadialProfile.of(Volume(atoms, grid, np.ones(grid.shape)))
    assert profile.counts.sum() == 512
    assert profile.edges[-1] == pytest.approx(np.sqrt(12.0), abs=2 * STEP)


def test_the_command_draws(tmp_path: Path) -> None:
    water = Path(__file__).parents[2] / "examples" / "water.xyz"
    cube, picture = tmp_path / "w.cube", tmp_path / "r.png"
    assert neupol("density", water, "--spacing", "0.4", "-o", cube).returncode == 0
    drawn = neupol("density-compare", cube, "-m", "density", "--json", "--plot", picture)
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG") and "profile" not in drawn.stdout
    wrong = neupol("density-compare", cube, "--plot", tmp_path / "r.txt")
    assert wrong.returncode == 2 and "a picture's name ends in .png" in wrong.stderr
