"""What must hold of every property network: written once, run over the whole registry."""

from __future__ import annotations

import math
from pathlib import Path

import ase
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from neupol_cli import checkpoint, registry
from neupol_cli.models.nn.graph import Graph
from tests.contracts.conftest import CHIRAL, SMALL, Case

RELATIVE = 1e-9


def answers(model, structures: list[ase.Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) values and (A, 3) their negative gradients."""
    graph = Graph.from_atoms(structures, torch.float64)
    values, forces, _ = model.derivatives(graph)
    return values[:, 0].detach().numpy(), forces.numpy()


def close(ours: np.ndarray, theirs: np.ndarray, relative: float) -> None:
    scale = max(float(np.abs(theirs).max()), 1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * scale)


def test_every_network_is_held_to_the_contracts() -> None:
    names = {e.name for e in registry.ENTRIES.values() if e.task == "property"}
    assert names == set(SMALL)


def test_rotations_reflections_and_translations(case: Case, molecules: list[ase.Atoms]) -> None:
    model = case.build()
    values, forces = answers(model, molecules)
    assert np.abs(forces).max() > 1e-6
    turn = Rotation.random(random_state=3).as_matrix()
    for matrix in (turn,) if case.name in CHIRAL else (turn, -turn):
        moved = [atoms.copy() for atoms in molecules]
        for atoms in moved:
            atoms.positions = atoms.positions @ matrix.T + [3.0, -2.0, 7.0]
        turned, pushed = answers(model, moved)
        close(turned, values, RELATIVE)
        close(pushed, forces @ matrix.T, RELATIVE)


def test_the_order_of_atoms_does_not_matter(mode: Case, molecules: list[ase.Atoms]) -> None:
    model = mode.build()
    values, _ = answers(model, molecules)
    generator = np.random.default_rng(0)
    shuffled = [atoms[generator.permutation(len(atoms))] for atoms in molecules]
    close(answers(model, shuffled)[0], values, RELATIVE)


def test_alone_is_as_in_a_batch(case: Case, molecules: list[ase.Atoms]) -> None:
    model = case.build()
    values, forces = answers(model, molecules)
    alone = [answers(model, [atoms]) for atoms in molecules]
    close(np.concatenate([a for a, _ in alone]), values, 1e-10)
    close(np.concatenate([f for _, f in alone]), forces, 1e-10)


def test_forces_equal_differences(case: Case, molecules: list[ase.Atoms]) -> None:
    model = case.build()
    _, forces = answers(model, molecules[:1])
    step = 1e-4
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        moved = []
        for steps in (1, -1, 2, -2):
            one = molecules[0].copy()
            one.positions[atom, axis] += steps * step
            moved.append(one)
        near, back, far, behind = answers(model, moved)[0]
        difference = -(8 * (near - back) - (far - behind)) / (12 * step)  # to fourth order
        assert abs(difference - forces[atom, axis]) < 1e-6


def test_training_on_forces_reaches_the_weights(mode: Case, molecules: list[ase.Atoms]) -> None:
    """Second derivatives exist and are finite, also where points coincide at the start."""
    model = mode.build()
    graph = Graph.from_atoms(molecules, torch.float64)
    values, forces, _ = model.derivatives(graph, create_graph=True)
    (values.square().sum() + forces.square().sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert any(float(g.abs().max()) > 0 for g in gradients)


def test_recorded_forces_are_the_forces(case: Case, molecules: list[ase.Atoms]) -> None:
    """Training sees the forces that a prediction gives."""
    model = case.build()
    graph = Graph.from_atoms(molecules, torch.float64)
    recorded = model.derivatives(graph, create_graph=True)[1].detach().numpy()
    close(recorded, model.derivatives(graph)[1].numpy(), 1e-10)


def test_the_slope_of_forces_by_weights_equals_differences(
    case: Case, molecules: list[ase.Atoms]
) -> None:
    """What a step of training on forces follows, along a direction of all weights at once."""
    model = case.build()
    graph = Graph.from_atoms(molecules[:2], torch.float64)
    generator = torch.Generator().manual_seed(4)
    weights = [p for p in model.parameters() if p.requires_grad]
    along = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    norm = math.sqrt(sum(float(d.square().sum()) for d in along))
    along = [d / norm for d in along]  # short steps: learned tables have kinks in their slopes
    forces = model.derivatives(graph, create_graph=True)[1]
    rates = torch.randn(forces.shape, generator=generator, dtype=forces.dtype)
    slopes = torch.autograd.grad((forces * rates).sum(), weights, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(slopes, along, strict=True) if g is not None)

    def total(step: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight += step * direction
        moved = float((model.derivatives(graph)[1] * rates).sum())
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight -= step * direction
        return moved

    h = 1e-5
    difference = (8 * (total(h) - total(-h)) - (total(2 * h) - total(-2 * h))) / (12 * h)
    assert abs(difference - slope) < 1e-8 * max(1.0, abs(slope))


def test_a_derivative_is_the_same_whoever_else_is_asked_for(
    case: Case, molecules: list[ase.Atoms]
) -> None:
    """Forces alone skip the weights' gradients, and a single weight those of all the others."""
    model = case.build()
    graph = Graph.from_atoms(molecules, torch.float64)
    positions = graph.positions.requires_grad_()
    value = model(graph).sum()
    weights = [p for p in model.parameters() if p.requires_grad]
    together = torch.autograd.grad(
        value, [positions, *weights], retain_graph=True, allow_unused=True
    )
    for one, expected in zip([positions, *weights], together, strict=True):
        (alone,) = torch.autograd.grad(value, one, retain_graph=True, allow_unused=True)
        assert (alone is None) == (expected is None)
        assert alone is None or torch.equal(alone, expected)


def test_weights_survive_a_file(mode: Case, molecules: list[ase.Atoms], tmp_path: Path) -> None:
    model = mode.build()
    with torch.no_grad():
        model.scale.fill_(1.7)
        model.shift.fill_(-1234.56789012345)
        model.reference.copy_(torch.arange(5.0)[None] / 3)
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, mode.name, model, {"targets": {"prediction": ""}})
    loaded = registry.load(str(path))
    assert loaded.dtype == torch.float64
    before = model.predict(molecules)["prediction"]
    assert np.array_equal(loaded.predict(molecules)["prediction"], before)


def test_what_cannot_be_negative_is_not(mode: Case, molecules: list[ase.Atoms]) -> None:
    """A new model with random weights; far above zero it answers as it would without the bound."""
    plain, model = mode.build(), mode.build(positive=("prediction",))
    for shift in (-1e4, -0.3, 1e4):
        for one in (plain, model):
            with torch.no_grad():
                one.scale.fill_(1.7)
                one.shift.fill_(shift)
        (free, pulled), (values, forces) = answers(plain, molecules), answers(model, molecules)
        assert (values >= 0).all() and np.isfinite(forces).all()
        if shift < -1e3:
            assert (free < 0).all()
        if shift > 1e3:
            assert np.array_equal(values, free) and np.array_equal(forces, pulled)


def test_a_checkpoint_that_does_not_say_so_is_not_bounded(
    mode: Case, molecules: list[ase.Atoms], tmp_path: Path
) -> None:
    """As all were before there was a bound."""
    model = mode.build()
    with torch.no_grad():
        model.shift.fill_(-1e4)
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, mode.name, model, {"targets": {"prediction": ""}})
    header, tensors = checkpoint.load_file(path)
    assert not header["config"].pop("positive")
    plain = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
    checkpoint.write(path, "weights", plain, tensors)
    values = registry.load(str(path)).predict(molecules)["prediction"]
    assert (values < 0).all() and np.array_equal(values, model.predict(molecules)["prediction"])


def test_float32_is_close_to_float64(mode: Case, molecules: list[ase.Atoms]) -> None:
    model = mode.build()
    wide = model.predict(molecules)["prediction"]
    narrow = model.float().predict(molecules)["prediction"]
    close(narrow, wide, 1e-4)


def test_periodic_images_are_the_same_structure(mode: Case) -> None:
    model = mode.build(cutoff=3.0)
    generator = np.random.default_rng(1)
    cell = 3.2 * np.eye(3) + generator.uniform(-0.5, 0.5, (3, 3))
    atoms = ase.Atoms("OHC", [[0, 0, 0], [1.1, 0.2, 0.3], [1.4, 1.6, 1.5]], cell=cell, pbc=True)
    value, forces = answers(model, [atoms])
    moved = atoms.copy()
    moved.positions += generator.integers(-2, 3, (3, 3)) @ cell + [0.3, 0.4, 0.5]
    shifted, pushed = answers(model, [moved])
    close(shifted, value, RELATIVE)
    close(pushed, forces, RELATIVE)


def test_stress_equals_differences(mode: Case) -> None:
    model = mode.build(cutoff=3.0)
    cell = np.array([[3.3, 0.2, 0], [0, 3.1, 0.4], [0.3, 0, 3.6]])
    atoms = ase.Atoms("OHC", [[0, 0, 0], [1.1, 0.2, 0.3], [1.4, 1.6, 1.5]], cell=cell, pbc=True)
    graph = Graph.from_atoms([atoms], torch.float64)
    _, _, stress = model.derivatives(graph, stress=True)
    step = 1e-5
    for x, y in ((0, 0), (1, 2)):
        sides = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[x, y] += sign * step / 2
            strain[y, x] += sign * step / 2
            strained = atoms.copy()
            strained.set_cell(cell @ strain, scale_atoms=True)
            sides.append(answers(model, [strained])[0][0])
        difference = (sides[0] - sides[1]) / (2 * step) / atoms.get_volume()
        assert abs(difference - float(stress[0, x, y])) < 1e-6
