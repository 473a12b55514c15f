"""EGNN against the published implementation, and compiled messages against the plain formula."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.egnn import messages as plain
from neupol_cli.models.egnn.kernels import choice
from neupol_cli.models.egnn.kernels import message_loops as loops
from neupol_cli.models.egnn.messages import MessageInputs, PushInputs
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours
from tests.compiler import needs_compiler


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
    points: int, edges: int, envelope: bool, hidden: int, size: int = 3
) -> tuple[MessageInputs, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

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


def compiled(like: torch.Tensor, hidden: int) -> choice.Kernels:
    kernels = choice.kernels(like, hidden, forces_are_learnt=False)
    assert kernels.summed_messages is not plain.summed_messages
    return kernels


FORMULA = choice.Kernels(plain.summed_messages, plain.sums_and_pushes)


def push_of(hidden: int, width: int) -> PushInputs:
    generator = torch.Generator().manual_seed(4)
    shapes = (width, hidden), (width,), (1, width)
    return PushInputs(
        *(
            torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in shapes
        )
    )


@needs_compiler
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize(("envelope", "size"), [(False, 1), (True, 1), (True, 19)])
def test_loops_give_the_plain_sum_and_its_gradients(
    envelope: bool, size: int, pushed: bool
) -> None:
    made, receivers, senders = inputs_of(9, 230, envelope, hidden=32, size=size)
    push = push_of(32, 48) if pushed else None
    inputs = [x for x in (*made, *(push or ())) if x is not None]
    weight = torch.randn(9 * 32 + 230, dtype=torch.float64, requires_grad=True)
    rates = [torch.randn_like(x) for x in inputs]

    def derivatives(by: choice.Kernels) -> list[torch.Tensor]:
        """The sum, its first derivatives as training has them, and as forces do, and second."""
        if push is None:
            total = by.summed_messages(made, receivers, senders).flatten()
        else:
            both = by.sums_and_pushes(made, push, receivers, senders)
            total = torch.cat([each.flatten() for each in both])
        loss = (total * weight[: len(total)]).mean()
        first = torch.autograd.grad(loss, inputs, retain_graph=True)
        recorded = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(recorded, [weight, *inputs], rates)
        return [total, *first, *recorded, *second]

    summed = derivatives(compiled(made.received, 32))
    for one, other in zip(summed, derivatives(FORMULA), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("wanted", [("encoded",), ("encoded", "envelope"), ("weight", "sent")])
def test_loops_make_the_derivatives_that_are_wanted(wanted: tuple[str, ...]) -> None:
    made, receivers, senders = inputs_of(4, 60, envelope=True, hidden=16)
    push, found = push_of(16, 16), []
    inputs = [getattr(made, name) for name in wanted]
    for by in (compiled(made.received, 16), FORMULA):
        summed, phi = by.sums_and_pushes(made, push, receivers, senders)
        found.append(torch.autograd.grad(summed.square().mean() + phi.square().mean(), inputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("envelope", [False, True])
def test_loops_are_differentiable_twice(envelope: bool) -> None:
    made, receivers, senders = inputs_of(points=3, edges=5, envelope=envelope, hidden=16)
    by, push = compiled(made.received, 16), push_of(16, 16)
    inputs = [x for x in (*made[:-1], *push, made.envelope) if x is not None]

    def summed(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = MessageInputs(*given[:8], given[11] if envelope else None)
        return by.sums_and_pushes(p, PushInputs(*given[8:11]), receivers, senders)

    assert torch.autograd.gradcheck(summed, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(summed, inputs, fast_mode=True)


@needs_compiler
@pytest.mark.parametrize("mode", ["off", "movable"])
def test_no_kernel_runs_where_they_are_switched_off(
    mode: str, published, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"hidden": 16, "layers": 2, "polarization": mode}
    torch.manual_seed(0)
    model = registry.build("egnn", config).double()
    graph = Graph.from_atoms(published.structures, torch.float64)
    by_kernel = model(graph)
    like = graph.positions
    assert choice.kernels(like, 16, False).summed_messages is not plain.summed_messages
    assert choice.kernels(like, 8, False).summed_messages is plain.summed_messages
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(loops._Summed, "apply", None)
    assert choice.kernels(like, 16, False).summed_messages is plain.summed_messages
    plainly = model(graph)
    plainly.sum().backward()
    torch.testing.assert_close(plainly, by_kernel, rtol=0, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("mode", ["off", "movable"])
def test_where_forces_are_learnt_the_plain_formula_serves(
    mode: str, published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, forces, and what training on both follows are those without kernels."""
    torch.manual_seed(0)
    config = {"hidden": 16, "layers": 3, "polarization": mode}
    model = registry.build("egnn", config).double()
    graph = Graph.from_atoms(published.structures[:1], torch.float64)
    weights = [p for p in model.parameters() if p.requires_grad]
    summed, learnt = loops._Summed.apply, []

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

    monkeypatch.setattr(loops._Summed, "apply", watched)
    monkeypatch.setenv("NEUPOL_KERNELS", "1")
    by_kernel = everything()
    assert learnt and not any(learnt)
    monkeypatch.setattr(loops._Summed, "apply", None)
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
