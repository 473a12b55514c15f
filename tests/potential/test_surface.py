"""Isosurfaces of densities whose surfaces are known, and the numbers of known potentials there."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.units import BOHR, KCALMOL
from neupol_cli.io.volumetric import Grid, Volume, by_spacing
from neupol_cli.potential import surface
from neupol_cli.potential.surface import Surface

ATOM = Atoms("O", [[0.03, -0.02, 0.05]])
RADIUS = 2.0  # Angstrom
LEVEL = surface.LEVEL / BOHR**3


def shell(grid: Grid) -> np.ndarray:
    """A density that is the level at RADIUS, and next to nothing at the nucleus."""
    apart = np.linalg.norm(grid.points() - ATOM.positions[0], axis=1)
    values = LEVEL * np.exp(-2.5 * (apart - RADIUS)) * (1 - np.exp(-((apart / 0.2) ** 2)))
    return np.asarray(values).reshape(grid.shape)


@pytest.fixture
def sphere() -> Surface:
    pytest.importorskip("skimage")
    grid = by_spacing(ATOM, 0.2, 3.6)
    return surface.isosurface(Volume(ATOM, grid, shell(grid)))


def test_a_sphere_without_the_hole_at_its_nucleus(sphere: Surface) -> None:
    apart = np.linalg.norm(sphere.points - ATOM.positions[0], axis=1)
    np.testing.assert_allclose(apart, RADIUS, rtol=0, atol=3e-3)
    assert sphere.areas.sum() == pytest.approx(4 * np.pi * RADIUS**2, rel=0, abs=0.2)


def test_a_tilted_grid_has_the_same_sphere() -> None:
    pytest.importorskip("skimage")
    step = np.array([[0.2, 0.0, 0.0], [0.05, 0.19, 0.0], [0.0, -0.06, 0.2]])
    grid = Grid(-30 * step.sum(axis=0), step, (61, 61, 61))
    found = surface.isosurface(Volume(ATOM, grid, shell(grid)))
    apart = np.linalg.norm(found.points - ATOM.positions[0], axis=1)
    np.testing.assert_allclose(apart, RADIUS, rtol=0, atol=3e-3)
    assert found.areas.sum() == pytest.approx(4 * np.pi * RADIUS**2, rel=0, abs=0.2)


def test_numbers_of_a_dipoles_potential(sphere: Surface) -> None:
    """V = 30 cos theta: halves of average 15 and variance 30^2 / 12."""
    heights = sphere.points[:, 2] - ATOM.positions[0, 2]
    found = surface.on_surface(30 * KCALMOL * heights / RADIUS, sphere, ATOM)
    assert found.highest.value == pytest.approx(30, rel=0, abs=0.1)
    assert found.lowest.value == pytest.approx(-30, rel=0, abs=0.1)
    top = ATOM.positions[0] + [0, 0, RADIUS]
    np.testing.assert_allclose(found.highest.place, top, rtol=0, atol=0.2)
    assert found.highest.atom == 0
    assert found.average == pytest.approx(0, rel=0, abs=0.02)
    assert found.average_positive == pytest.approx(15, rel=0, abs=0.05)
    assert found.average_negative == pytest.approx(-15, rel=0, abs=0.05)
    assert found.variance_positive == pytest.approx(75, rel=0, abs=1)
    assert found.variance == pytest.approx(150, rel=0, abs=2)
    assert found.balance == pytest.approx(0.25, rel=0, abs=1e-5)
    assert found.deviation == pytest.approx(15, rel=0, abs=0.05)


def test_a_potential_of_one_sign_has_no_balance(sphere: Surface) -> None:
    found = surface.on_surface(np.full(len(sphere.points), 2 * KCALMOL), sphere, ATOM)
    assert (found.average, found.average_negative) == (pytest.approx(2, rel=0, abs=1e-9), 0)
    assert (found.variance_negative, found.balance) == (0, 0)
    assert found.deviation == pytest.approx(0, rel=0, abs=1e-9)


def test_what_has_no_closed_surface_is_refused() -> None:
    pytest.importorskip("skimage")
    grid = by_spacing(ATOM, 0.2, 1.5)
    with pytest.raises(InputError, match=r"at the grid's faces; take a larger --margin"):
        surface.isosurface(Volume(ATOM, grid, shell(grid)))
    empty = Volume(ATOM, by_spacing(ATOM, 0.2, 3.6), np.zeros((36, 36, 36)))
    far = Volume(Atoms("O", [[90.0, 0.0, 0.0]]), empty.grid, empty.values)
    with pytest.raises(InputError, match="nowhere"):
        surface.isosurface(far)
    crystal = Atoms("O", cell=[7.2, 7.2, 7.2], pbc=True)
    with pytest.raises(InputError, match="only a molecule has one"):
        surface.isosurface(Volume(crystal, empty.grid, empty.values))


def test_without_scikit_image_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(UsageError, match=r"scikit-image is not installed: pip install 'neupol\["):
        surface.require()
