"""A structure whose edges are made a range at a time is answered as if they were held together."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from neupol_cli.models import streaming
from neupol_cli.models.nn.graph import Graph
from tests.contracts.conftest import Case

Answers = list[np.ndarray]


def everything(model, atoms: ase.Atoms) -> Answers:
    """Values with and without a record, forces and, of a crystal, the stress."""
    graph = Graph.from_atoms([atoms], torch.float64)
    with torch.no_grad():
        values = model(graph)
    recorded, forces, stress = model.derivatives(graph, stress=bool(atoms.pbc.any()))
    tensors = (values, recorded.detach(), forces, stress)
    return [tensor.numpy() for tensor in tensors if tensor is not None]


def in_ranges(model, atoms: ase.Atoms, monkeypatch: pytest.MonkeyPatch) -> tuple[Answers, int]:
    """The same by ranges of a receiver, and how many of these there were."""
    parts: list[streaming.Part] = []
    part = streaming.EdgeRanges._part

    def counted(self: streaming.EdgeRanges, start: int, stop: int) -> streaming.Part:
        parts.append(part(self, start, stop))
        return parts[-1]

    for name in ("EDGES", "PAIRS", "RECORD"):
        monkeypatch.setattr(streaming, name, 5 if name == "PAIRS" else 1)
    monkeypatch.setattr(streaming.EdgeRanges, "_part", counted)
    return everything(model, atoms), len(parts)


def compare(ours: Answers, theirs: Answers) -> None:
    for one, other in zip(ours, theirs, strict=True):
        scale = max(float(np.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * scale)


def test_molecules(case: Case, molecules: list[ase.Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.build()
    whole = everything(model, molecules[2])
    ours, parts = in_ranges(model, molecules[2], monkeypatch)
    compare(ours, whole)
    assert (parts > 10) == model.backbone.by_ranges


def test_crystals(mode: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mode.build(cutoff=3.0)
    cell = np.array([[3.3, 0.2, 0], [0, 3.1, 0.4], [0.3, 0, 3.6]])
    atoms = ase.Atoms("OHC", [[0, 0, 0], [1.1, 0.2, 0.3], [1.4, 1.6, 1.5]], cell=cell, pbc=True)
    whole = everything(model, atoms)
    ours, parts = in_ranges(model, atoms, monkeypatch)
    compare(ours, whole)
    assert (parts > 5) == model.backbone.by_ranges


def test_several_threads_share_one_structure(
    molecules: list[ase.Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neupol_cli.models import workers

    model = Case("egnn", "movable").build()
    whole = everything(model, molecules[2])
    monkeypatch.setattr(workers._chosen, "workers", 3)
    compare(in_ranges(model, molecules[2], monkeypatch)[0], whole)


def test_derivatives_by_weights_keep_all_edges(
    molecules: list[ase.Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever mode a model is: what is dropped would be missing in them."""
    model = Case("egnn").build()
    graph = Graph.from_atoms(molecules[2:], torch.float64)
    whole = torch.autograd.grad(model(graph).sum(), list(model.parameters()))
    for name in ("EDGES", "PAIRS", "RECORD"):
        monkeypatch.setattr(streaming, name, 1)
    ours = torch.autograd.grad(model(graph).sum(), list(model.parameters()))
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    forces = model.derivatives(graph, create_graph=True)[1]
    forces.square().sum().backward()
    assert all(p.grad is not None for p in model.backbone.layers[0].parameters())


def test_a_batch_is_cut_by_structures(
    molecules: list[ase.Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGES", "PAIRS", "RECORD"):
        monkeypatch.setattr(streaming, name, 1)
    monkeypatch.setattr(streaming.EdgeRanges, "_part", None)
    with torch.no_grad():
        assert Case("egnn").build()(Graph.from_atoms(molecules, torch.float64)).shape == (3, 1)
