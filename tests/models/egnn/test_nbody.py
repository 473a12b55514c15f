"""EGNN with velocities against the published network, its fused pairs, and movable points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.egnn import nbody
from neupol_cli.models.egnn.kernels.nbody_step import Seen
from neupol_cli.models.egnn.nbody import EGNNDynamics, NBodyConfig
from neupol_cli.models.egnn.pair_messages import Parts, messages_and_pushes, plain
from tests.compiler import needs_compiler


@pytest.fixture(scope="module")
def published(parity):
    return parity("egnn_nbody")


def inputs(published) -> list[Tensor]:
    arrays = (published[key] for key in ("positions", "velocities", "charges"))
    x, v, q = (torch.from_numpy(array).unflatten(0, (2, 5)) for array in arrays)
    return [x, v, q]


def network(mode: str, layers: int = 3, hidden: int = 8) -> EGNNDynamics:
    torch.manual_seed(0)
    model = EGNNDynamics(NBodyConfig(hidden, layers, polarization=mode)).double()
    for layer in model.layers:  # the published start barely moves anything
        torch.nn.init.normal_(layer.push.second.weight, std=0.02)
    return model


def test_the_answer_equals_the_published_one(published) -> None:
    model = registry.from_published("egnn-nbody", published.weights, published.config)
    found = model(*inputs(published)).detach().flatten(0, 1)
    np.testing.assert_allclose(found, published["predicted_positions"], rtol=0, atol=1e-12)


def test_every_layer_moves_as_the_published_one(published) -> None:
    model = registry.from_published("egnn-nbody", published.weights, published.config)
    path = model.path(*inputs(published))
    for t in range(1, 3):
        found = path[t].detach().transpose(0, 1).flatten(0, 1)
        np.testing.assert_allclose(found, published[f"layer_positions/{t}"], rtol=0, atol=1e-12)


def test_the_unread_feature_update_has_no_weights(published) -> None:
    ours = sum(p.numel() for p in registry.build("egnn-nbody", {}).parameters())
    unread = 128 * 64 + 64 + 64 * 64 + 64
    assert ours == 134_020 - unread


@pytest.mark.parametrize("first", [0, 2])
def test_fused_pairs_equal_the_plain_formula(first: int) -> None:
    torch.manual_seed(1)
    points, receivers, systems, hidden = 5, 4, 3, 6
    shapes = Parts(
        received=(receivers, systems, hidden),
        sent=(points, systems, hidden),
        squared=(receivers, points - 1, systems, 1),
        attributes=(receivers, points - 1, systems, 2),
        to_pair=(hidden, 3),
        weight=(hidden, hidden),
        bias=(hidden,),
        push=(hidden, hidden),
        push_bias=(hidden,),
        last=(1, hidden),
    )  # type: ignore[arg-type]
    parts = Parts(*(torch.randn(shape, dtype=torch.float64) for shape in shapes))
    needed = [p.requires_grad_() for p in parts if p is not parts.attributes]
    senders = torch.tensor([j for i in range(1, 5) for j in range(5) if j != i])
    both = [f(parts, senders, first) for f in (messages_and_pushes, plain)]
    for fused, wanted in zip(*both, strict=True):
        torch.testing.assert_close(fused, wanted, rtol=0, atol=1e-12)
    weights = [torch.randn_like(out) for out in both[0]]
    gradients = [torch.autograd.grad(out, needed, weights) for out in both]
    for fused, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, wanted, rtol=0, atol=1e-11)


def rotation() -> Tensor:
    """An orthogonal matrix with a reflection."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return q * -torch.linalg.det(q)


@pytest.mark.parametrize("mode", ["off", "frozen", "movable"])
def test_answers_move_with_the_system(published, mode: str) -> None:
    model, (x, v, q) = network(mode), inputs(published)
    turn, shift = rotation(), torch.randn(3, dtype=torch.float64)
    wanted = model(x, v, q) @ turn + shift
    found = model(x @ turn + shift, v @ turn, q)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", ["off", "frozen", "movable"])
def test_answers_follow_a_permutation_of_particles(published, mode: str) -> None:
    model, (x, v, q) = network(mode), inputs(published)
    order = torch.tensor([3, 1, 4, 0, 2])
    wanted = model(x, v, q)[:, order]
    found = model(x[:, order], v[:, order], q[:, order])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_modes_have_the_same_layers_and_frozen_layers_see_no_motion(published) -> None:
    counts = {m: sum(p.numel() for p in network(m).parameters()) for m in ("frozen", "movable")}
    assert counts["frozen"] == counts["movable"]
    x, v, q = inputs(published)
    paths = {mode: network(mode).path(x, v, q) for mode in ("frozen", "movable")}
    # The first layer sees every movable point on its particle in either mode; later ones do not.
    torch.testing.assert_close(paths["frozen"][1], paths["movable"][1], rtol=0, atol=1e-12)
    assert (paths["frozen"][-1] - paths["movable"][-1]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["off", "frozen", "movable"])
def test_every_weight_learns(published, mode: str) -> None:
    model = network(mode, layers=2)
    model(*inputs(published)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="off, frozen, movable"):
        EGNNDynamics(NBodyConfig(polarization="sideways"))


def answer_and_gradients(model: EGNNDynamics, systems: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(2)
    x, v, weights = torch.randn(3, systems, 5, 3, dtype=torch.float64).to(dtype)
    q = torch.randn(systems, 5, dtype=torch.float64).sign().to(dtype)
    model.zero_grad()
    answer = model(x, v, q)
    (answer * weights).sum().backward()
    return [answer.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@needs_compiler
@pytest.mark.parametrize("hidden", [16, 48, 64])
@pytest.mark.parametrize("mode", ["off", "frozen", "movable"])
def test_compiled_layers_equal_composed_ones(
    mode: str, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight systems: a whole tile and a part of one. Some pushes of layer 1 reach the farthest.
    model = network(mode, hidden=hidden)
    torch.nn.init.normal_(model.layers[1].push.second.weight, std=30.0)
    found = answer_and_gradients(model, 8, torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(nbody, "usable", lambda seen, hidden: False)
        wanted = answer_and_gradients(model, 8, torch.float64)
    single = answer_and_gradients(model.float(), 8, torch.float32)
    assert len(found) == len(wanted) == len(single)
    for compiled, rounded, composed in zip(found, single, wanted, strict=True):
        scale = float(composed.abs().max())
        torch.testing.assert_close(compiled, composed, rtol=0, atol=1e-11 * scale)
        assert (rounded - composed).abs().max() < 1e-3 * scale


def test_the_sizes_that_cannot_be_compiled_are_composed() -> None:
    seen = Seen(torch.zeros(5, 2, 3), torch.zeros(5, 2), torch.zeros(5, 2, 3))
    assert not nbody.usable(seen, 8)
    learning = Seen(torch.zeros(5, 2, 3, requires_grad=True), seen.charges, seen.velocities)
    assert not nbody.usable(learning, 64)


def test_gradients_through_a_failed_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("movable", hidden=16)
    found = answer_and_gradients(model, 3, torch.float64)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    wanted = answer_and_gradients(model, 3, torch.float64)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_out_the_systems(threads: int) -> None:
    model = network("movable", hidden=16)
    wanted = answer_and_gradients(model, 7, torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = answer_and_gradients(model, 7, torch.float64)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
