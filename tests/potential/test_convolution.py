"""Potentials of charges on grids beside those that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from neupol_cli.errors import InputError
from neupol_cli.io.volumetric import Grid
from neupol_cli.potential.convolution import COULOMB, potential

OPEN, PERIODIC = np.zeros(3, bool), np.ones(3, bool)
TILTED = np.array([[0.2, 0.0, 0.0], [0.03, 0.22, 0.0], [-0.02, 0.04, 0.19]])
WIDTH = 0.45  # Angstrom, of Gaussian charges


def around(step: np.ndarray, counts: tuple[int, int, int]) -> Grid:
    return Grid(-np.array(counts) @ step / 2, step, counts)


def gaussian(grid: Grid, center: np.ndarray, width: float = WIDTH) -> np.ndarray:
    """A unit charge at each point of a grid, e."""
    squares = ((grid.points() - center) ** 2).sum(axis=1)
    values = np.exp(-squares / (2 * width**2)) / (2 * np.pi * width**2) ** 1.5
    return np.asarray(values * grid.element).reshape(grid.shape)


def with_images(cell: np.ndarray, counts: tuple[int, int, int], width: float) -> np.ndarray:
    """Charges +1 at the origin and -1 at half of all three vectors, and their images, e."""
    grid = Grid(np.zeros(3), cell / np.array(counts)[:, None], counts)
    shifts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T @ cell
    total = np.zeros(counts)
    for shift in shifts:
        total += gaussian(grid, shift, width) - gaussian(grid, cell.sum(axis=0) / 2 + shift, width)
    return total


@pytest.mark.parametrize("step", [TILTED, np.diag([0.2, 0.21, 0.19])])
@pytest.mark.parametrize("counts", [(44, 40, 44), (41, 47, 45)])
def test_a_gaussian_charge_in_empty_space(step: np.ndarray, counts: tuple[int, int, int]) -> None:
    grid, center = around(step, counts), np.array([0.1, 0.2, -0.3])
    found = potential(gaussian(grid, center), grid, OPEN)
    apart = np.linalg.norm(grid.points() - center, axis=1)
    exact = COULOMB * erf(apart / (np.sqrt(2) * WIDTH)) / apart
    np.testing.assert_allclose(found.ravel(), exact, rtol=0, atol=1e-9)


def test_points_beyond_the_grid() -> None:
    grid, center = around(np.diag([0.2, 0.2, 0.2]), (42, 42, 42)), np.array([0.1, 0.0, -0.2])
    found = potential(gaussian(grid, center), grid, OPEN, beyond=5)
    assert found.shape == (52, 52, 52)
    corner = grid.origin - 5 * 0.2
    exact = COULOMB / np.linalg.norm(corner - center)
    assert found[0, 0, 0] == pytest.approx(exact, rel=0, abs=1e-9)
    within = potential(gaussian(grid, center), grid, OPEN)
    np.testing.assert_allclose(found[5:-5, 5:-5, 5:-5], within, rtol=0, atol=1e-9)


def test_far_from_it_a_point_dipole() -> None:
    """Of a Gaussian's derivative: p.r / r^3 where the Gaussian has ended."""
    grid, moment, width = around(np.diag([0.2] * 3), (50, 50, 50)), np.array([0.3, -0.2, 0.5]), 0.4
    charges = gaussian(grid, np.zeros(3), width) * (grid.points() @ moment).reshape(grid.shape)
    found = potential(charges / width**2, grid, OPEN).ravel()
    apart = np.linalg.norm(grid.points(), axis=1)
    far = apart > 3.0
    exact = COULOMB * (grid.points()[far] @ moment) / apart[far] ** 3
    assert far.sum() > 50_000
    np.testing.assert_allclose(found[far], exact, rtol=0, atol=1e-9)


def test_the_madelung_constants_of_rock_salt_and_caesium_chloride() -> None:
    """By the energy of Gaussian charges, which are points to each other, less each one's own."""
    edge, width = 5.64, 0.35
    rock_salt = edge / 2 * (1 - np.eye(3))
    constants = {1.7475645946331822: (rock_salt, edge / 2)}
    constants[1.7626747730709883] = (edge * np.eye(3), edge * np.sqrt(3) / 2)
    for expected, (cell, nearest) in constants.items():
        counts = (36, 36, 36) if cell[0, 0] == 0 else (48, 48, 48)
        charges = with_images(cell, counts, width)
        grid = Grid(np.zeros(3), cell / np.array(counts)[:, None], counts)
        values = potential(charges, grid, PERIODIC)
        assert values.mean() == pytest.approx(0, rel=0, abs=1e-12)
        energy = 0.5 * (charges * values).sum() - COULOMB / (np.sqrt(np.pi) * width)
        assert -energy * nearest / COULOMB == pytest.approx(expected, rel=0, abs=1e-6)


def test_a_slab_has_a_step_and_is_a_crystals_layer_without_its_field() -> None:
    cell = np.array([[3.0, 0.0, 0.0], [0.4, 3.2, 0.0], [0.7, 0.3, 12.0]])
    grid = Grid(np.zeros(3), cell / np.array([24, 26, 96])[:, None], (24, 26, 96))
    charges = np.zeros(grid.shape)
    for shift in np.array(np.meshgrid(range(-3, 4), range(-3, 4), [0])).reshape(3, -1).T @ cell:
        charges += gaussian(grid, np.array([1, 1, 5.0]) + shift)
        charges -= gaussian(grid, np.array([1.6, 2, 6.4]) + shift)
    found = potential(charges, grid, np.array([True, True, False]), beyond=8)
    assert found.shape == (24, 26, 112)
    below, above = found[:, :, 0].mean(), found[:, :, -1].mean()
    step = -4 * np.pi * COULOMB * 1.4 / (3.0 * 3.2)  # of a moment of 1.4 e Angstrom
    assert above - below == pytest.approx(step, rel=0, abs=1e-9)
    assert above + below == pytest.approx(0, rel=0, abs=1e-9)
    # The periodic images add a uniform field and a constant, no more.
    tall = np.pad(charges, ((0, 0), (0, 0), (0, 5 * 96)))
    periodic = potential(tall, Grid(np.zeros(3), grid.step, tall.shape), PERIODIC)
    difference = (periodic[:, :, :96] - found[:, :, 8:-8])[:, :, 36:60]
    profile = difference.mean(axis=(0, 1))
    np.testing.assert_allclose(difference, np.broadcast_to(profile, difference.shape), atol=1e-9)
    np.testing.assert_allclose(np.diff(profile), -step / 576, rtol=0, atol=1e-9)


def test_along_which_axis_a_slab_is_open_does_not_matter() -> None:
    step, rng = np.diag([0.3, 0.3, 0.3]), np.random.default_rng(1)
    charges = rng.normal(size=(8, 10, 12))
    charges -= charges.mean()
    expected = potential(charges, Grid(np.zeros(3), step, (8, 10, 12)), np.array([1, 1, 0]) > 0)
    turned = charges.transpose(2, 0, 1)
    found = potential(turned, Grid(np.zeros(3), step, turned.shape), np.array([0, 1, 1]) > 0)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=0, atol=1e-9)


def test_a_wire_is_refused() -> None:
    grid = around(np.eye(3), (4, 4, 4))
    with pytest.raises(InputError, match=r"a wire .* give it a cell with vacuum"):
        potential(np.zeros(grid.shape), grid, np.array([True, False, False]))
