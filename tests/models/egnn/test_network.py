"""EGNN against the published implementation, and the tiled messages against the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.egnn import messages as plain
from neupol_cli.models.egnn.kernels import choice
from neupol_cli.models.egnn.kernels import message_tiles as tiles
from neupol_cli.models.egnn.messages import MessageInputs
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


def inputs_of(
    points: int, edges: int, envelope: bool
) -> tuple[MessageInputs, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    hidden, size = 5, 3
    made = MessageInputs(
        random(points, hidden),
        random(points, hidden),
        random(edges, size),
        random(hidden, size),
        random(hidden, hidden),
        random(hidden),
        random(1, hidden),
        random(1),
        random(edges, 1) if envelope else None,
    )
    receivers = torch.randint(0, points, (edges,), generator=generator).sort().values
    return made, receivers, torch.randint(0, points, (edges,), generator=generator)


@pytest.mark.parametrize("envelope", [False, True])
def test_tiles_give_the_plain_sum_and_its_gradients(
    envelope: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_NUMBERS", 1)  # 64 edges a tile: four tiles, the last not full
    made, receivers, senders = inputs_of(points=9, edges=230, envelope=envelope)
    inputs = [x for x in made if x is not None]
    weight = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    rates = [torch.randn_like(x) for x in inputs]

    def derivatives(function: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        """The sum, its first derivatives as training has them, and as forces do, and second."""
        total = function(made, receivers, senders)
        first = torch.autograd.grad(total, inputs, weight, retain_graph=True)
        recorded = torch.autograd.grad(total, inputs, weight, create_graph=True)
        second = torch.autograd.grad(recorded, [weight, *inputs], rates)
        return [total, *first, *recorded, *second]

    tiled, formula = derivatives(tiles.summed_messages), derivatives(plain.summed_messages)
    for one, other in zip(tiled, formula, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("envelope", [False, True])
def test_tiles_are_differentiable_twice(envelope: bool) -> None:
    made, receivers, senders = inputs_of(points=4, edges=7, envelope=envelope)
    inputs = [x for x in made if x is not None]

    def summed(*given: torch.Tensor) -> torch.Tensor:
        full = given if envelope else (*given, None)
        return tiles.summed_messages(MessageInputs(*full), receivers, senders)

    assert torch.autograd.gradcheck(summed, inputs)
    assert torch.autograd.gradgradcheck(summed, inputs)


@pytest.mark.parametrize("mode", ["off", "movable"])
def test_no_kernel_runs_where_they_are_switched_off(
    mode: str, published, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"hidden": 8, "layers": 2, "polarization": mode}
    torch.manual_seed(0)
    model = registry.build("egnn", config).double()
    graph = Graph.from_atoms(published.structures, torch.float64)
    by_kernel = model(graph)
    assert choice.kernels(False).summed_messages is tiles.summed_messages
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(tiles._Summed, "apply", None)
    assert choice.kernels(False).summed_messages is plain.summed_messages
    plainly = model(graph)
    plainly.sum().backward()
    torch.testing.assert_close(plainly, by_kernel, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["off", "movable"])
def test_where_forces_are_learnt_the_plain_formula_serves(
    mode: str, published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, forces, and what training on both follows are those without kernels."""
    torch.manual_seed(0)
    config = {"hidden": 8, "layers": 3, "polarization": mode}
    model = registry.build("egnn", config).double()
    graph = Graph.from_atoms(published.structures[:1], torch.float64)
    weights = [p for p in model.parameters() if p.requires_grad]
    summed, learnt = tiles.summed_messages, []

    def watched(*inputs: Any) -> torch.Tensor:
        learnt.append(model.training)
        return summed(*inputs)

    def everything() -> list[torch.Tensor]:
        with torch.no_grad():
            value = model.eval()(graph)
        forces = model.derivatives(graph)[1]
        values, slopes, _ = model.train().derivatives(graph, create_graph=True)
        loss = values.square().sum() + slopes.square().sum()
        return [value, forces, *torch.autograd.grad(loss, weights)]

    monkeypatch.setattr(tiles, "summed_messages", watched)
    monkeypatch.setenv("NEUPOL_KERNELS", "1")
    by_kernel = everything()
    assert learnt and not any(learnt)
    monkeypatch.setattr(tiles, "summed_messages", None)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    for one, other in zip(by_kernel, everything(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


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
