"""What must hold of every density network: written once, run over the whole registry."""

from __future__ import annotations

import copy
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from neupol_cli import checkpoint, registry
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.nn.graph import Graph
from tests.contracts.conftest import DENSITIES, SMALL_DENSITIES, DensityCase

RELATIVE = 1e-9
# The published readout of spin mixes in a pseudoscalar: rotations, but no reflections.
CHIRAL = "pseudoscalar_spin"


@pytest.fixture(params=["molecule", "crystal"])
def structure(
    request: pytest.FixtureRequest, molecules: list[ase.Atoms], crystal: ase.Atoms
) -> ase.Atoms:
    return {"molecule": molecules[2], "crystal": crystal}[request.param]


def scattered(count: int = 40, seed: int = 3) -> np.ndarray:
    """(count, 3) Angstrom: points among the atoms, and some beyond them."""
    return np.random.default_rng(seed).uniform(-1.5, 4.5, (count, 3))


def density(model, atoms: ase.Atoms, probes: np.ndarray, **settings) -> np.ndarray:
    """(M,) or (M, 2) e/Angstrom^3."""
    found = model.density(model.atom_features(atoms), torch.from_numpy(probes), **settings)
    return found.numpy()


def close(ours: np.ndarray, theirs: np.ndarray, relative: float) -> None:
    assert np.ptp(theirs) > 1e-6  # it says something about these points
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def test_every_network_is_held_to_the_contracts() -> None:
    names = {e.name for e in registry.ENTRIES.values() if e.task == "density"}
    assert names == set(DENSITIES) == set(SMALL_DENSITIES)


def test_rotations_reflections_and_translations(
    density_case: DensityCase, structure: ase.Atoms
) -> None:
    model, probes, shift = density_case.build(), scattered(), np.array([3.0, -2.0, 7.0])
    before = density(model, structure, probes)
    turn = Rotation.random(random_state=3).as_matrix()
    for matrix in (turn,) if CHIRAL in density_case.settings else (turn, -turn):
        turned = structure.copy()
        turned.positions = structure.positions @ matrix.T + shift
        turned.cell = structure.cell.array @ matrix.T
        close(density(model, turned, probes @ matrix.T + shift), before, RELATIVE)


def test_the_order_of_atoms_does_not_matter(
    density_case: DensityCase, structure: ase.Atoms
) -> None:
    model, probes = density_case.build(), scattered()
    shuffled = structure[np.random.default_rng(0).permutation(len(structure))]
    close(density(model, shuffled, probes), density(model, structure, probes), RELATIVE)


def test_periodic_images_and_supercells_are_the_same_structure(
    density_case: DensityCase, crystal: ase.Atoms
) -> None:
    model, probes, cell = density_case.build(), scattered(25), crystal.cell.array
    before, generator = density(model, crystal, probes), np.random.default_rng(1)
    moved = crystal.copy()
    moved.positions += generator.integers(-2, 3, crystal.positions.shape) @ cell
    elsewhere = probes + generator.integers(-2, 3, probes.shape) @ cell
    close(density(model, moved, elsewhere), before, RELATIVE)
    close(density(model, crystal.repeat((2, 1, 2)), probes), before, RELATIVE)


def test_tiles_grids_and_training_are_one_function(
    density_case: DensityCase, structure: ase.Atoms
) -> None:
    model = density_case.build()
    step = np.array([[1.5, 0.1, 0.0], [0.0, 1.6, -0.3], [0.4, 0.0, 2.0]])
    grid, told = Grid([-3.0, -4.0, -3.5], step, (5, 5, 4)), []
    with torch.no_grad():
        graph = Graph.from_atoms([structure], torch.float64)
        at_once = model(graph, torch.from_numpy(grid.points())[None]).numpy()
    close(density(model, structure, grid.points()), at_once, 1e-12)
    close(density(model, structure, grid.points(), memory=1), at_once, 1e-12)
    features = model.atom_features(structure)
    close(model.density_grid(features, grid).numpy(), at_once, 1e-12)
    tiles = model.density_grid(features, grid, memory=1, progress=lambda *now: told.append(now))
    close(tiles.numpy(), at_once, 1e-12)
    assert told[-1] == (100, 100) and told == sorted(told)


def test_alone_is_as_in_a_batch(density_case: DensityCase, molecules: list[ase.Atoms]) -> None:
    model = density_case.build()
    probes = torch.from_numpy(np.stack([scattered(20, seed) for seed in range(3)]))
    with torch.no_grad():
        both = model(Graph.from_atoms(molecules, torch.float64), probes)
        for k, atoms in enumerate(molecules):
            alone = model(Graph.from_atoms([atoms], torch.float64), probes[k : k + 1])
            close(both[20 * k : 20 * k + 20].numpy(), alone.numpy(), 1e-10)


def test_weights_survive_a_file(
    density_case: DensityCase, molecules: list[ase.Atoms], tmp_path: Path
) -> None:
    model, path = density_case.build(), tmp_path / "weights.safetensors"
    checkpoint.save(path, density_case.name, model, {"targets": {"density": "e/Angstrom^3"}})
    loaded = registry.load(str(path))
    before, probes = density(model, molecules[0], scattered()), scattered()
    assert np.array_equal(density(loaded, molecules[0], probes), before)


def test_float32_is_close_to_float64(density_case: DensityCase, structure: ase.Atoms) -> None:
    model, probes = density_case.build(), scattered(100)
    wide = density(model, structure, probes)
    narrow = density(model.float(), structure, probes)
    assert narrow.dtype == np.float32
    close(narrow, wide, 1e-4)


ALONE = {
    "atom": ase.Atoms("O", [[0.3, -0.2, 0.1]]),
    "pair": ase.Atoms("N2", [[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]),
    "cell": ase.Atoms("O", [[0.3, -0.2, 0.1]], cell=[12.0] * 3, pbc=True),
}


@pytest.mark.parametrize("name", ALONE)
def test_atoms_without_neighbours_have_the_density_of_isolated_atoms(
    density_case: DensityCase, name: str
) -> None:
    """No edge at all: each atom's surroundings equal those of the atom alone in space."""
    model, atoms = density_case.build(), ALONE[name]
    around = np.random.default_rng(4).uniform(-1.5, 1.5, (20, 3))
    alone = density(model, atoms[:1], atoms.positions[0] + around)
    assert np.isfinite(alone).all()
    for place in atoms.positions:
        np.testing.assert_allclose(density(model, atoms, place + around), alone, rtol=0, atol=1e-10)


def test_probes_that_no_atom_reaches_share_one_constant(density_case: DensityCase) -> None:
    model = density_case.build()
    far = density(model, ALONE["pair"], np.array([[4.5, 30.0, 0.0], [80.0, 0.0, -50.0]]))
    assert np.isfinite(far).all()
    np.testing.assert_array_equal(far[0], far[1])


def _in_place(model) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)


def _loaded(model) -> None:
    model.load_state_dict({k: 0.9 * v for k, v in model.state_dict().items()})


def _stepped(model) -> None:
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.Adam(weights, lr=1e-2, fused=True).step()


def _through_float64(model) -> None:
    model.double()
    _in_place(model)
    model.float()


CHANGES = (_in_place, _loaded, _stepped, _through_float64)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_nothing_that_is_kept_of_the_weights_outlives_them(
    density_case: DensityCase, molecules: list[ase.Atoms], change
) -> None:
    model, probes = density_case.build().float(), scattered()
    before = density(model, molecules[2], probes)
    copied = copy.deepcopy(model)
    change(model)
    fresh = registry.build(density_case.name, vars(model.config)).eval()
    fresh.load_state_dict(model.state_dict())
    after = density(model, molecules[2], probes)
    assert np.abs(after - before).max() > 1e-5 * np.abs(before).max()
    np.testing.assert_array_equal(after, density(fresh, molecules[2], probes))
    np.testing.assert_array_equal(density(copied, molecules[2], probes), before)
    change(copied)
    np.testing.assert_array_equal(density(copied, molecules[2], probes), after)
