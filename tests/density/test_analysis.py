"""zeta and gradients of densities on grids, against densities whose derivatives are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.density import analysis
from neupol_cli.errors import InputError
from neupol_cli.io import volumetric
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing
from tests.warm import neupol

CELL = np.array([[4.0, 0.3, -0.2], [1.5, 3.6, 0.4], [-0.9, 0.6, 5.0]])


def waves() -> tuple[Volume, np.ndarray]:
    """A density of three plane waves in a triclinic cell, and its exact gradient."""
    atoms = Atoms("NaCl", [[0.1, 0.2, 0.3], [2.0, 1.7, 2.4]], cell=CELL, pbc=True)
    grid = by_counts(atoms, (16, 15, 18), 0.0)
    reciprocal = 2 * np.pi * np.linalg.inv(CELL).T
    points = grid.points()
    values, slopes = np.full(grid.size, 2.0), np.zeros((grid.size, 3))
    for index, weight in {(1, 0, 0): 0.5, (0, 1, -1): 0.3, (2, 1, 3): 0.2}.items():
        wave = np.array(index) @ reciprocal
        values += weight * np.cos(points @ wave)
        slopes -= weight * np.sin(points @ wave)[:, None] * wave
    return Volume(atoms, grid, values.reshape(grid.shape)), slopes.reshape(*grid.shape, 3)


def gaussian(angular: bool, spacing: float = 0.1) -> Volume:
    """One atom: exp(-r^2), or (1 + z^2) exp(-r^2)."""
    atoms = Atoms("C", [[0.02, -0.01, 0.03]])
    grid = by_spacing(atoms, spacing, 3.5)
    apart = grid.points() - atoms.positions[0]
    values = np.exp(-(apart**2).sum(axis=1)) * (1 + angular * 4 * apart[:, 2] ** 2)
    return Volume(atoms, grid, values.reshape(grid.shape))


def test_a_periodic_gradient_is_exact() -> None:
    volume, slopes = waves()
    np.testing.assert_allclose(analysis.gradient(volume), slopes, rtol=0, atol=1e-12)


def test_a_molecules_gradient_is_of_fourth_order() -> None:
    errors = []
    for spacing in (0.2, 0.1):
        volume = gaussian(False, spacing)
        apart = volume.grid.points() - volume.atoms.positions[0]
        exact = -2 * apart * np.exp(-(apart**2).sum(axis=1))[:, None]
        found = analysis.gradient(volume).reshape(-1, 3)
        errors.append(np.abs(found - exact).max())
    assert errors[1] < 2e-4 and errors[0] / errors[1] > 12


def test_zeta_is_zero_for_a_spherical_atom_and_known_for_another() -> None:
    assert analysis.angular_variation(gaussian(False)) == pytest.approx(0, rel=0, abs=1e-5)
    volume = gaussian(True)
    apart = volume.grid.points() - volume.atoms.positions[0]
    radius = np.linalg.norm(apart, axis=1, keepdims=True)
    bell, z = np.exp(-(radius**2)), apart[:, 2:]
    slopes = -2 * apart * bell * (1 + 4 * z**2) + bell * 8 * z * np.array([0.0, 0.0, 1.0])
    exact = (
        1 - np.abs((slopes * apart / radius).sum(1)).sum() / np.linalg.norm(slopes, axis=1).sum()
    )
    assert 0.1 < exact < 0.5
    assert analysis.angular_variation(volume) == pytest.approx(exact, rel=0, abs=1e-4)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_the_nearest_atom_is_the_nearest_image(pbc: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng(3)
    cell = np.array([[3.0, 0, 0], [2.4, 1.6, 0.2], [-2.0, 0.7, 2.5]])
    atoms = Atoms("CO", generator.random((2, 3)) * 9 - 3, cell=cell, pbc=pbc)
    grid = Grid(generator.random(3), cell / np.array([[5], [6], [7]]), (5, 6, 7))
    ((start, found),) = analysis.directions_from_atoms(atoms, grid)
    shifts = np.array(np.meshgrid(*[range(-9 * flag, 9 * flag + 1) for flag in pbc])).reshape(3, -1)
    images = (atoms.positions[None] + (shifts.T @ cell)[:, None]).reshape(-1, 3)
    apart = grid.points()[:, None] - images[None]
    distances = np.linalg.norm(apart, axis=2)
    nearest = distances.argmin(axis=1)
    rows = np.arange(grid.size)
    expected = apart[rows, nearest] / distances[rows, nearest][:, None]
    assert start == 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_constant_density_has_no_zeta() -> None:
    grid = Grid([0, 0, 0], np.eye(3), (4, 4, 4))
    with pytest.raises(InputError, match="constant"):
        analysis.angular_variation(Volume(Atoms("H", [[1, 1, 1]]), grid, np.ones(grid.shape)))


def test_the_command_reports_zeta_and_how_it_goes_with_the_error(tmp_path: Path) -> None:
    volumes = [gaussian(bool(k), 0.4) for k in (0, 1, 1)]
    noisy = [
        Volume(v.atoms, v.grid, v.values * (1 + 0.01 * (k + 1))) for k, v in enumerate(volumes)
    ]
    volumetric.h5.write(tmp_path / "ref.h5", volumes, "t")
    volumetric.h5.write(tmp_path / "rho.h5", noisy, "t")
    command = ["density-compare", "rho.h5", "--accept"]  # no atom has as many electrons
    found = neupol(*command, "--reference", "ref.h5", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    *reports, last = [json.loads(line) for line in found.stdout.splitlines()]
    assert [r["eps_mae_percent"] for r in reports] == pytest.approx([1, 2, 3], rel=0, abs=1e-4)
    assert last["structures"] == 3 and last["correlation_zeta_eps_mae"]["pearson"] > 0.5
    plain = neupol(*command, cwd=tmp_path)
    assert plain.stdout.count("zeta ") == 3
    assert "Pearson" not in plain.stdout
    nothing = neupol("density", cwd=tmp_path)
    assert nothing.returncode == 2 and "structure" in nothing.stderr


def test_a_model_is_compared_with_a_dataset_part_by_part(tmp_path: Path) -> None:
    from neupol_cli import registry

    waters = [Atoms("OH2", [[0, 0, 0.1], [0, 0.8, -0.5], [0, -x, -0.5]]) for x in (0.8, 0.9)]
    molecules = waters + [Atoms("CO", [[0, 0, 0], [0, 0, x]]) for x in (1.1, 1.2, 1.4)]
    model = registry.load("density")
    with DensityWriter(tmp_path / "rho.h5", source="t") as writer:
        for k, atoms in enumerate(molecules):
            grid = by_spacing(atoms, 0.4, 2.0)
            exact = model.density_grid(model.atom_features(atoms), grid).double().numpy()
            writer.add(atoms, (1 + 0.01 * k) * exact.reshape(grid.shape), grid.origin, grid.step)
        writer.split("default", {"train": np.array([0, 1]), "test": np.array([2, 3, 4])})
    command = ["density-compare", "rho.h5", "-m", "density"]
    found = neupol(*command, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    *reports, train, test = [json.loads(line) for line in found.stdout.splitlines()]
    assert [r["split"] for r in reports] == ["train"] * 2 + ["test"] * 3
    errors = [r["eps_mae_percent"] for r in reports]
    assert errors == pytest.approx([k / (1 + 0.01 * k) for k in range(5)], rel=0, abs=1e-3)
    assert (train["split"], train["structures"]) == ("train", 2)
    assert "correlation_zeta_eps_mae" not in train
    assert (test["split"], test["structures"]) == ("test", 3)
    assert test["mean_eps_mae_percent"] == pytest.approx(np.mean(errors[2:]), rel=0, abs=1e-9)
    expected = np.corrcoef([r["zeta"] for r in reports[2:]], errors[2:])[0, 1]
    told = test["correlation_zeta_eps_mae"]["pearson"]
    assert told == pytest.approx(expected, rel=0, abs=1e-9)
    refused = neupol(*command, "--reference", "rho.h5", cwd=tmp_path)
    assert refused.returncode == 2 and "not with both" in refused.stderr
