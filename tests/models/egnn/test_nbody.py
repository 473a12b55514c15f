"""EGNN with velocities against the published network, its kernels, and movable points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.egnn import nbody
from neupol_cli.models.egnn.config import NBodyConfig
from neupol_cli.models.egnn.kernels import nbody_step, pair_messages
from neupol_cli.models.egnn.kernels.choice import NBodyKernels, nbody_kernels
from neupol_cli.models.egnn.nbody import DenseEdges, EGNNDynamics, Particles
from tests.compiler import needs_compiler


@pytest.fixture(scope="module")
def published(parity):
    return parity("egnn_nbody")


def inputs(published) -> list[Tensor]:
    arrays = (published[key] for key in ("positions", "velocities", "charges"))
    x, v, q = (torch.from_numpy(array).unflatten(0, (2, 5)) for array in arrays)
    return [x, v, q]


MODES = ["off", "frozen", "movable", "both"]


def network(mode: str, layers: int = 3, hidden: int = 8) -> EGNNDynamics:
    """``both``: movable points, and particles that move beside them."""
    torch.manual_seed(0)
    named = "movable" if mode == "both" else mode
    model = EGNNDynamics(NBodyConfig(hidden, layers, named, mode == "both")).double()
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


@pytest.mark.parametrize("moving", [0, 2])
def test_the_kernel_of_messages_equals_the_plain_formula(published, moving: int) -> None:
    x, v, q = (values.transpose(0, 1).contiguous() for values in inputs(published))
    layer = network("off").layers[0]
    h = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    edges = DenseEdges.among(Particles(x, q, v)).received_from(1)
    x_ij = edges.vectors(x).requires_grad_()
    variables = [h, x_ij, *layer.message.parameters(), *layer.push.parameters()]
    kernel = layer.messages_by_kernel(h, x_ij, edges, moving)
    plain = layer.messages_and_phi_x(h, x_ij, edges, moving)
    by_output = [torch.randn_like(output) for output in plain]
    by_kernel, plainly = (
        [*out, *torch.autograd.grad(out, variables, by_output)] for out in (kernel, plain)
    )
    for one, other in zip(by_kernel, plainly, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def rotation() -> Tensor:
    """An orthogonal matrix with a reflection."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return q * -torch.linalg.det(q)


@pytest.mark.parametrize("mode", MODES)
def test_answers_move_with_the_system(published, mode: str) -> None:
    model, (x, v, q) = network(mode), inputs(published)
    turn, shift = rotation(), torch.randn(3, dtype=torch.float64)
    wanted = model(x, v, q) @ turn + shift
    found = model(x @ turn + shift, v @ turn, q)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
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


@pytest.mark.parametrize("mode", MODES)
def test_every_weight_learns(published, mode: str) -> None:
    model = network(mode, layers=2)
    model(*inputs(published)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_both_is_the_baseline_on_twice_the_points(published) -> None:
    """With one embedding for both kinds of points, the baseline of 2n particles, two on a place."""
    both, off = network("both"), network("off")
    for embedding in both.embeddings:
        embedding.load_state_dict(off.embeddings[0].state_dict())
    both.layers.load_state_dict(off.layers.state_dict())
    x, v, q = inputs(published)
    twice = off(torch.cat((x, x), 1), torch.cat((v, v), 1), torch.cat((q, q), 1))
    torch.testing.assert_close(both(x, v, q), twice[:, 5:], rtol=0, atol=1e-13)
    apart = both(x, v, q) - network("movable")(x, v, q)
    assert float(apart.detach().abs().max()) > 1e-6


@pytest.mark.parametrize("mode", ["off", "frozen"])
def test_particles_move_only_beside_movable_points(mode: str) -> None:
    with pytest.raises(UsageError, match="goes with movable points"):
        EGNNDynamics(NBodyConfig(polarization=mode, particles_move=True))


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
@pytest.mark.parametrize("mode", MODES)
def test_compiled_layers_equal_composed_ones(
    mode: str, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight systems: a whole tile and a part of one. Some steps of layer 1 reach the farthest.
    model = network(mode, hidden=hidden)
    torch.nn.init.normal_(model.layers[1].push.second.weight, std=30.0)
    found = answer_and_gradients(model, 8, torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(nbody, "nbody_kernels", lambda *_: NBodyKernels(False, False))
        wanted = answer_and_gradients(model, 8, torch.float64)
    single = answer_and_gradients(model.float(), 8, torch.float32)
    assert len(found) == len(wanted) == len(single)
    for compiled, rounded, composed in zip(found, single, wanted, strict=True):
        scale = float(composed.abs().max())
        torch.testing.assert_close(compiled, composed, rtol=0, atol=1e-11 * scale)
        assert (rounded - composed).abs().max() < 1e-3 * scale


@needs_compiler
@pytest.mark.parametrize("mode", MODES)
def test_answers_without_a_record_are_the_same(mode: str) -> None:
    # Whole tiles and a part of one, in memory that still has another tile's numbers.
    model = network(mode, hidden=16)
    x, v = torch.randn(2, 27, 5, 3, dtype=torch.float64)
    q = torch.randn(27, 5, dtype=torch.float64).sign()
    recorded = model(x, v, q).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(x, v, q), recorded, rtol=0, atol=0)


@needs_compiler
def test_what_cannot_be_compiled_is_composed() -> None:
    given = Particles(torch.zeros(5, 2, 3), torch.zeros(5, 2), torch.zeros(5, 2, 3))
    assert nbody_kernels(given, 64) == (True, True)
    assert nbody_kernels(given, 8) == (True, False)
    learning = given._replace(positions=torch.zeros(5, 2, 3, requires_grad=True))
    assert nbody_kernels(learning, 64) == (True, False)


@pytest.mark.parametrize("mode", MODES)
def test_no_kernel_runs_where_they_are_switched_off(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(mode, hidden=16)
    by_kernel = answer_and_gradients(model, 3, torch.float64)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(nbody_step, "_Step", None)
    monkeypatch.setattr(pair_messages, "_MessagesAndPhiX", None)
    plainly = answer_and_gradients(model, 3, torch.float64)
    for one, other in zip(by_kernel, plainly, strict=True):
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
