"""Through a symmetric structure, where vectors vanish and a movable point passes through its atom,
nothing jumps and no force has a kink: of every network as it is made today."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli import checkpoint, registry
from neupol_cli.models.nn.graph import Graph
from tests.contracts.conftest import Case, DensityCase

# In these some atom's movable point stays where it is, for want of a direction to go.
SYMMETRIC = ("CO2", "CH4", "C6H6")
STEP = 1e-7  # Angstrom; a unit vector would turn round within it


def energies_and_forces(model, name: str, shifts: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Energies (N,) and forces (N, A, 3) with the first atom out of its place along (1, 1, 1)."""
    made = []
    for shift in shifts:
        made.append(molecule(name))
        made[-1].positions[0] += shift / np.sqrt(3)
    graph = Graph.from_atoms(made, torch.float64)
    energies, forces, _ = model.derivatives(graph)
    return energies.detach().numpy()[:, 0], forces.numpy().reshape(len(made), -1, 3)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_forces_go_through_symmetric_structures(mode: Case, name: str) -> None:
    model = mode.build()
    energies, forced = energies_and_forces(model, name, [0.0, STEP, -STEP, 1e-4, -1e-4])
    scale = np.abs(forced).max()
    assert np.isfinite(forced).all() and np.ptp(energies) < 1e-2 * scale
    for near in (1, 2):
        np.testing.assert_allclose(forced[near], forced[0], rtol=0, atol=1e-4 * max(scale, 1.0))
    along = forced[0, 0].sum() / np.sqrt(3)
    difference = -(energies[3] - energies[4]) / 2e-4
    assert abs(difference - along) < 1e-5 * max(scale, 1.0)


def densities(density_case: DensityCase, shifts: list[float]) -> np.ndarray:
    """(N, M) at some probes around CO2, its carbon out of its place by so much."""
    model = density_case.build()
    probes = torch.from_numpy(np.random.default_rng(3).uniform(-2, 2, (60, 3)))
    answers = []
    for shift in shifts:
        atoms = molecule("CO2")
        atoms.positions[0] += shift / np.sqrt(3)
        answers.append(model.density(atoms, probes).numpy())
    return np.stack(answers)


def test_densities_go_through_symmetric_structures(density_case: DensityCase) -> None:
    if density_case.name == "deepdft-painn":
        pytest.skip("its update reads |V v| as published, which has a kink where V vanishes")
    at, right, left, far_right, far_left = densities(density_case, [0, STEP, -STEP, 1e-4, -1e-4])
    scale = np.abs(at).max()
    assert np.abs(right - at).max() < 1e-5 * scale  # it does not jump
    right_slope, left_slope = (right - at) / STEP, (at - left) / STEP
    assert np.abs(right_slope).max() > 1e-4 * scale  # and it changes
    np.testing.assert_allclose(right_slope, left_slope, rtol=0, atol=1e-5 * scale)
    wide = (far_right - far_left) / 2e-4
    np.testing.assert_allclose(wide, right_slope, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["equivariant-transformer", "equiformer"])
@pytest.mark.parametrize("mode", ["off", "frozen", "movable"])
def test_the_published_formulas_jump(name: str, mode: str) -> None:
    """Which says that the tests above can fail."""
    model = Case(name, mode).build(softening=0.0)
    _, forced = energies_and_forces(model, "CO2", [STEP, -STEP])
    assert np.abs(forced[0] - forced[1]).max() > 1e-2


def test_a_checkpoint_that_does_not_say_so_is_as_published(
    mode: Case, molecules: list[ase.Atoms], tmp_path: Path
) -> None:
    """As all were before there was a softening."""
    model = mode.build(softening=0.0)
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, mode.name, model, {"targets": {"prediction": ""}})
    header, tensors = checkpoint.load_file(path)
    assert header["config"].pop("softening") == 0
    plain = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
    checkpoint.write(path, "weights", plain, tensors)
    values = registry.load(str(path)).predict(molecules)["prediction"]
    assert np.array_equal(values, model.predict(molecules)["prediction"])
