"""What a network says of a structure, to tell how far off it may be, is the same in every frame."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from neupol_cli import checkpoint, registry
from neupol_cli.models.calibration import fitted
from neupol_cli.models.nn.graph import Graph
from tests.contracts.conftest import Case, DensityCase


def test_features_are_invariant(case: Case, molecules: list[ase.Atoms]) -> None:
    """And the same whatever stands in front of a structure in its batch."""
    model = case.build()
    first, turned = molecules[0], molecules[0].copy()
    turned.positions = first.positions @ Rotation.random(random_state=1).as_matrix().T + 3.0
    graph = Graph.from_atoms([*molecules, turned], torch.float64)
    values, features = model.described(graph)
    np.testing.assert_allclose(values.detach(), model(graph).detach(), rtol=0, atol=1e-12)
    features = features.detach().numpy()
    assert features.shape == (graph.size, model.uncalibrated().mean.shape[0])
    np.testing.assert_allclose(features[-1], features[0], rtol=0, atol=1e-9)
    assert np.abs(features[0] - features[1]).max() > 1e-6


def test_those_of_forces_are_invariant(mode: Case, molecules: list[ase.Atoms]) -> None:
    """An atom's own, in the order of the atoms, beside the forces that a prediction gives."""
    model = mode.build()
    turned = molecules[0].copy()
    turned.positions = turned.positions @ Rotation.random(random_state=1).as_matrix().T + 3.0
    graph = Graph.from_atoms([*molecules, turned], torch.float64)
    forces, features = model.described_forces(graph)
    np.testing.assert_allclose(forces, model.derivatives(graph)[1], rtol=0, atol=1e-12)
    assert features.shape == (len(graph.numbers), model.uncalibrated_forces().mean.shape[0])
    first = len(molecules[0])
    np.testing.assert_allclose(features[-first:], features[:first], rtol=0, atol=1e-9)
    assert float((features[0] - features[1]).abs().max()) > 1e-6


def test_those_of_densities_are_invariant(
    density_case: DensityCase, molecules: list[ase.Atoms]
) -> None:
    model = density_case.build()
    structures = [molecules[0], molecules[1], molecules[0].copy()]
    structures[2].positions = (
        molecules[0].positions @ Rotation.random(random_state=1).as_matrix().T + 3.0
    )
    for atoms in structures:
        atoms.numbers[:] = np.resize(model.species, len(atoms))
    encoded = [model.atom_features(atoms) for atoms in structures]
    alone = torch.cat([model.described(features) for features in encoded])
    together = model.described(model.prepared(Graph.from_atoms(structures, torch.float64)))
    assert alone.shape == (3, model.uncalibrated().mean.shape[0])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-9)
    np.testing.assert_allclose(alone[2], alone[0], rtol=0, atol=1e-9)
    assert float((alone[0] - alone[1]).abs().max()) > 1e-6


def test_those_of_atoms_are_invariant(
    density_case: DensityCase, molecules: list[ase.Atoms]
) -> None:
    """An atom's own, in the order of the atoms, whatever else is in the batch."""
    model = density_case.build()
    first, other = molecules[0], molecules[1]
    for atoms in (first, other):
        atoms.numbers[:] = np.resize(model.species, len(atoms))
    order = np.random.default_rng(1).permutation(len(first))
    turned = first[order]
    turned.positions = turned.positions @ Rotation.random(random_state=1).as_matrix().T + 3.0
    graph = Graph.from_atoms([other, first, turned], torch.float64)
    together = model.described_atoms(model.prepared(graph))
    alone = model.described_atoms(model.atom_features(first))
    assert alone.shape == (len(first), model.uncalibrated_atoms().mean.shape[0])
    of_first, of_turned = together[len(other) :].split(len(first))
    np.testing.assert_allclose(of_first, alone, rtol=0, atol=1e-9)
    np.testing.assert_allclose(of_turned, alone[order], rtol=0, atol=1e-9)
    assert float((alone[0] - alone[1]).abs().max()) > 1e-6


def test_bounds_around_atoms_travel_with_a_density_network(
    density_case: DensityCase, molecules: list[ase.Atoms], tmp_path: Path
) -> None:
    """A checkpoint without them loads and says nothing, as older ones do."""
    model, path = density_case.build(), tmp_path / "a.safetensors"
    atoms = molecules[0]
    atoms.numbers[:] = np.resize(model.species, len(atoms))
    checkpoint.save(path, density_case.name, model, {})
    older = registry.load_density(str(path))
    assert older.atom_uncertainty(older.atom_features(atoms)) is None
    described = model.described_atoms(model.atom_features(atoms))
    generator = torch.Generator().manual_seed(0)
    rows = described[torch.arange(120) % len(atoms)]
    rows = rows + 0.1 * torch.randn(rows.shape, generator=generator).double()
    errors = torch.rand(120, 1, generator=generator).double() + 0.1
    model.atom_calibration = fitted(rows, rows, errors, torch.arange(120) // 4)
    checkpoint.save(path, density_case.name, model, {})
    loaded = registry.load_density(str(path))
    bounds = loaded.atom_uncertainty(loaded.atom_features(atoms))
    assert bounds.shape == (len(atoms),) and float(bounds.min()) > 0
    np.testing.assert_allclose(bounds, model.atom_calibration(described)[:, 0], rtol=0, atol=1e-9)
    probes = torch.from_numpy(atoms.positions + 0.3)
    np.testing.assert_array_equal(loaded.density(atoms, probes), older.density(atoms, probes))
