"""EGNN against the published implementation, and the tiled messages against the plain formula."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.egnn import messages as tiles
from neupol_cli.models.egnn.messages import Parts, plain, summed_messages
from neupol_cli.models.nn.graph import Edges, Graph, neighbours


@pytest.fixture(scope="module")
def published(parity):
    return parity("egnn_qm9")


def test_answers_equal_the_published_network(published) -> None:
    model = published.model("egnn")
    raw = model.raw(published.structures)
    np.testing.assert_allclose(raw, published["prediction"], rtol=0, atol=1e-12)


def test_every_layer_equals_the_published_one(published) -> None:
    backbone = published.model("egnn").backbone
    graph = Graph.from_atoms(published.structures, torch.float64)
    topology = neighbours(graph, graph.positions, None)
    edges = Edges.of(topology, graph.positions, graph.batch)
    state = backbone.embed(backbone.types(graph.numbers), edges)
    for k, layer in enumerate([*backbone.layers, None]):
        wanted = published[f"node_features/{k}"]
        np.testing.assert_allclose(state.detach(), wanted, rtol=0, atol=1e-11)
        if layer is not None:
            state = layer(state, edges)


def parts(points: int, edges: int, envelope: bool) -> tuple[Parts, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def some(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    hidden, size = 5, 3
    made = Parts(
        some(points, hidden),
        some(points, hidden),
        some(edges, size),
        some(hidden, size),
        some(hidden, hidden),
        some(hidden),
        some(1, hidden),
        some(1),
        some(edges, 1) if envelope else None,
    )
    receivers = torch.randint(0, points, (edges,), generator=generator).sort().values
    return made, receivers, torch.randint(0, points, (edges,), generator=generator)


@pytest.mark.parametrize("envelope", [False, True])
def test_tiles_give_the_plain_sum_and_its_gradients(
    envelope: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_NUMBERS", 1)  # 64 edges a tile: four tiles, the last not full
    made, receivers, senders = parts(points=9, edges=230, envelope=envelope)
    inputs = [part for part in made if part is not None]
    fast = summed_messages(made, receivers, senders)
    slow = plain(made, receivers, senders)
    np.testing.assert_allclose(fast.detach(), slow.detach(), rtol=0, atol=1e-12)
    weight = torch.randn_like(slow)
    for one, other in zip(
        torch.autograd.grad(fast, inputs, weight),
        torch.autograd.grad(slow, inputs, weight),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("envelope", [False, True])
def test_tiles_are_differentiable_twice(envelope: bool) -> None:
    made, receivers, senders = parts(points=4, edges=7, envelope=envelope)
    inputs = [part for part in made if part is not None]

    def summed(*given: torch.Tensor) -> torch.Tensor:
        full = given if envelope else (*given, None)
        return summed_messages(Parts(*full), receivers, senders)

    assert torch.autograd.gradcheck(summed, inputs)
    assert torch.autograd.gradgradcheck(summed, inputs)


def test_an_atom_alone_has_an_answer() -> None:
    model = registry.build("egnn", {"hidden": 8, "layers": 2}).double()
    alone = model.predict([ase.Atoms("O")])["prediction"]
    beside = model.predict([ase.Atoms("O"), ase.Atoms("H2", [[0, 0, 0], [0, 0, 1.0]])])[
        "prediction"
    ]
    np.testing.assert_allclose(alone[0], beside[0], rtol=0, atol=1e-12)


def test_float32_is_close_to_float64(published) -> None:
    model = published.model("egnn")
    narrow = published.model("egnn").float().raw(published.structures)
    wide = model.raw(published.structures)
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-4 * float(wide.abs().max()))
