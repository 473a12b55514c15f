"""What a network says of a structure, to tell how far off it may be, is the same in every frame."""

from __future__ import annotations

import ase
import numpy as np
import torch
from scipy.spatial.transform import Rotation

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
