"""Equiformer: published values, symmetry, forces, points that coincide, tiles against formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import CheckpointError, UsageError
from neupol_cli.models.equiformer.config import EquiformerConfig
from neupol_cli.models.equiformer.kernels import edge_frame, frame_messages, tiles
from neupol_cli.models.equiformer.network import Equiformer
from neupol_cli.models.equiformer.so3 import multiplicities, packed, unpacked
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours
from neupol_cli.models.property import PropertyModel

DATA = Path(__file__).parents[2] / "data" / "parity" / "equiformer.npz"
SMALL = EquiformerConfig(
    targets=("energy",),
    units=("eV",),
    irreps="8x0e+6x1e+4x2e",
    layers=3,
    cutoff=4.0,
    heads=2,
    head_irreps="4x0e+3x1e+2x2e",
    mlp_irreps="10x0e+6x1e+5x2e",
    feature=12,
    encoding_size=8,
    encoding_bins=16,
    radial=(8, 8),
)
MODES = ("off", "frozen", "movable")


@pytest.fixture(scope="module")
def reference():
    return np.load(DATA)


@pytest.fixture(scope="module")
def published(reference):
    weights = {k[8:]: reference[k] for k in reference.files if k.startswith("weights/")}
    return registry.from_published("equiformer", weights, json.loads(str(reference["config"])))


def structures_of(data):
    return [
        ase.Atoms(numbers=data["numbers"][mine], positions=data["positions"][mine])
        for mine in (data["batch"] == k for k in range(2))
    ]


def small(seed=0, **changes):
    torch.manual_seed(seed)
    model = PropertyModel(Equiformer(replace(SMALL, **changes))).double().eval()
    for projection in getattr(model.polarization, "projections", []):
        with torch.no_grad():  # far enough for a wrong displacement to show
            projection.mix.mul_(300)
    return model


def molecules(seed=1):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.3
    made = []
    for size in (6, 1, 4):
        chosen = rng.permutation(len(grid))[:size]
        positions = grid[chosen] + rng.uniform(-0.3, 0.3, (size, 3))
        made.append(ase.Atoms(numbers=rng.choice([1, 6, 7, 8, 9], size), positions=positions))
    return made


def rotation(seed=3):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def turned_harmonics(degree, turn):
    """D with D Y(v) = Y(turn v), from e3nn's harmonics of some vectors."""
    from e3nn import o3

    vectors = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    before, after = (
        o3.spherical_harmonics(degree, each, normalize=True)
        for each in (vectors, vectors @ torch.from_numpy(turn).T)
    )
    return torch.linalg.lstsq(before, after).solution.T


def graph_of(structures):
    return Graph.from_atoms(structures, torch.float64)


def agrees(found, expected, relative=1e-10):
    expected = torch.as_tensor(expected)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * scale)


@pytest.mark.parametrize("kernels", ["1", "0"])
def test_published_weights_give_the_published_prediction(
    published, reference, monkeypatch, kernels
):
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    agrees(published.raw(structures_of(reference)), reference["prediction"])


@pytest.mark.parametrize("kernels", ["1", "0"])
def test_published_weights_give_everything_on_the_way(published, reference, monkeypatch, kernels):
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    graph = graph_of(structures_of(reference))
    network = published.backbone
    edges = Edges.of(neighbours(graph, graph.positions, 5.0), graph.positions, graph.batch)
    assert edges.receivers.shape[0] == reference["number_of_edges"]
    with torch.no_grad():
        state = network.embed(network.types(graph.numbers), edges)
        agrees(state, reference["node_features/0"])
        features = network.geometry(edges)
        assert (features.frames is None) == (kernels == "0")
        degree = network.degree(features, graph.numbers.shape[0])
        agrees(packed(degree), reference["degree_embedding"])
        for k, layer in enumerate(network.layers, 1):
            y = layer.norm_1(unpacked(state, network.muls))
            change = packed(layer.attention(y, features))
            agrees(change, reference[f"attention_output/{k}"][:, : change.shape[1]])
            state = layer(state, edges)
            if k < len(network.layers):
                agrees(state, reference[f"node_features/{k}"])
        feature = network.head.feature(unpacked(state, network.muls))
        agrees(packed(feature), reference[f"node_features/{k}"])
        normed = network.head.norm(feature)
        agrees(packed(normed), reference["final_norm"])
        agrees(network.head.heads[0].by_atom(normed), reference["atom_outputs"])


def test_another_published_basis_is_refused(reference):
    config = json.loads(str(reference["config"])) | {"basis_type": "bessel"}
    with pytest.raises(CheckpointError, match="bessel"):
        Equiformer.published({}, config)


def test_missing_weights_are_named(reference):
    with pytest.raises(CheckpointError, match="atom_embed"):
        registry.from_published("equiformer", {}, json.loads(str(reference["config"])))


def test_the_published_sizes_are_the_defaults():
    model = Equiformer(EquiformerConfig())
    ours = sum(p.numel() for p in model.parameters())
    muls = multiplicities(EquiformerConfig().irreps)
    assert muls == (128, 64, 32)
    # Published 3,531,715, of which these are never read: in the degree embedding 576 path weights,
    # the rows of Lin_proj that belong to them, and the bias that is added to a constant; in the
    # last block l > 0 of the values, of Lin_proj, of norm_2 and of the feed-forward network, and
    # the paths that make components across an edge only.
    degree = 576 * 65 + (224 - 128) * 128 + (384 - 128) * 64 + (352 - 128) * 32 + 128
    values = 960 - 224 + 384 * 64 + 352 * 32 + 64 * 64 + 32 * 32
    ffn = 64 + 32 + 129 * (192 + 96) + 64 * 192 + 32 * 96
    across = 192 * 65 + 96 * 64 + 96 * 32
    assert ours == 3_531_715 - degree - values - ffn - across


@pytest.mark.parametrize("mode", MODES)
def test_rotation_and_translation_leave_the_answer(mode):
    model, turn = small(polarization=mode), rotation()
    before = molecules()
    after = [ase.Atoms(m.numbers, m.positions @ turn.T + [3.0, -1.0, 2.0]) for m in before]
    a, b = model.predict(before, forces=True), model.predict(after, forces=True)
    np.testing.assert_allclose(b["energy"], a["energy"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(b["forces"], a["forces"] @ turn.T, rtol=0, atol=1e-10)


def test_the_state_turns_with_the_molecule():
    model, turn = small().backbone, rotation()
    graph = graph_of(molecules())
    muls = multiplicities(model.irreps)
    blocks = [turned_harmonics(degree, turn) for degree, mul in enumerate(muls) for _ in range(mul)]
    matrix = torch.block_diag(*blocks)
    states = []
    for positions in (graph.positions, graph.positions @ torch.from_numpy(turn).T):
        edges = Edges.of(neighbours(graph, positions, model.cutoff), positions, graph.batch)
        with torch.no_grad():
            states.append(model(model.types(graph.numbers), edges))
    torch.testing.assert_close(states[1], states[0] @ matrix.T, rtol=0, atol=1e-11)
    assert states[0][:, 8:].abs().max() > 0.1  # vectors are there


@pytest.mark.parametrize("mode", MODES)
def test_permutation_and_batching_leave_the_answer(mode):
    model, made = small(polarization=mode), molecules()
    together = model.raw(made)
    alone = torch.cat([model.raw([m]) for m in made])
    order = [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.raw([made[0][order]]), together[:1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_forces_are_the_gradient(mode):
    model, molecule = small(polarization=mode), molecules()[0]
    forces = model.predict([molecule], forces=True)["forces"]
    step = 2e-5
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        values = []
        for sign in (1, -1):
            moved = molecule.copy()
            moved.positions[atom, axis] += sign * step
            values.append(model.predict([moved])["energy"][0])
        slope = -(values[0] - values[1]) / (2 * step)
        assert abs(forces[atom, axis] - slope) < 1e-6 * np.abs(forces).max()


@pytest.mark.parametrize("mode", ["off", "movable"])
def test_training_on_forces_has_the_right_gradient(mode):
    model, graph = small(polarization=mode), graph_of(molecules())

    def loss(recorded):
        _, forces, _ = model.derivatives(graph, create_graph=recorded)
        return forces.square().sum()

    parameters = dict(model.named_parameters())
    chosen = [
        "backbone.layers.0.attention.lin.weights.1",
        "backbone.layers.0.attention.radial.last",
        "backbone.layers.1.attention.values.path_weights",
        "backbone.geometry.basis.mean",
    ]
    gradients = torch.autograd.grad(loss(True), [parameters[name] for name in chosen])
    assert abs(loss(True) - loss(False)) < 1e-12 * loss(False)
    for name, gradient in zip(chosen, gradients, strict=True):
        index, step = int(gradient.abs().argmax()), 1e-5
        with torch.no_grad():
            flat = parameters[name].view(-1)
            values = []
            for change in (step, -2 * step):
                flat[index] += change
                values.append(loss(False).item())
            flat[index] += step
        slope = (values[0] - values[1]) / (2 * step)
        largest = gradient.view(-1)[index].item()
        assert abs(largest - slope) < 1e-5 * max(abs(slope), 1e-3), name


@pytest.mark.parametrize("mode", ["frozen", "movable"])
def test_movable_points_move_only_where_they_may(mode):
    model, graph = small(polarization=mode), graph_of(molecules())
    with torch.no_grad():
        _, path = model.polarization(model.backbone, graph)
    moved = (path[-1] - path[0]).norm(dim=1).max().item()
    assert (moved > 1e-3) if mode == "movable" else (moved == 0)


@pytest.mark.parametrize("mode", ["frozen", "movable"])
def test_points_that_coincide_have_finite_gradients(mode):
    model, graph = small(polarization=mode), graph_of(molecules())
    for projection in model.polarization.projections:
        torch.nn.init.zeros_(projection.mix)  # no point ever leaves its atom
    _, forces, _ = model.derivatives(graph, create_graph=True)
    gradients = torch.autograd.grad(forces.square().sum(), model.parameters(), allow_unused=True)
    assert forces.isfinite().all()
    assert all(g.isfinite().all() for g in gradients if g is not None)


@pytest.mark.parametrize("encoding", ["gaussian", "bessel", "expnormal", "mlp", "learned"])
def test_every_encoding_fits(encoding):
    model, made = small(encoding=encoding), molecules()
    turned = [ase.Atoms(m.numbers, m.positions @ rotation().T) for m in made]
    torch.testing.assert_close(model.raw(turned), model.raw(made), rtol=0, atol=1e-11)
    assert (model.smoothness() is not None) == (encoding == "learned")


def test_an_unknown_encoding_is_refused():
    with pytest.raises(UsageError, match=r"fourier.*learned-gaussian"):
        Equiformer(replace(SMALL, encoding="fourier"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"irreps": "8x0e+6x1o"}, r"8x0e\+6x1o"),
        ({"irreps": "8x0e"}, "no vectors"),
        ({"head_irreps": "4x0e+3x1e"}, "head_irreps '4x0e.*same l"),
        ({"mlp_irreps": "4x0e+3x1e+2x2e+2x3e"}, "mlp_irreps"),
        ({"layers": 0}, "0 layers"),
    ],
)
def test_sizes_that_make_no_network_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Equiformer(replace(SMALL, **change))


def test_higher_degrees_turn_too():
    model = small(
        irreps="6x0e+4x1e+3x2e+2x3e",
        head_irreps="3x0e+2x1e+2x2e+1x3e",
        mlp_irreps="6x0e+4x1e+3x2e+2x3e",
    )
    made = molecules()
    turned = [ase.Atoms(m.numbers, m.positions @ rotation().T) for m in made]
    torch.testing.assert_close(model.raw(turned), model.raw(made), rtol=0, atol=1e-11)


def test_periodic_images_and_edges_along_every_axis():
    made = ase.Atoms("OH", [[0, 0, 0], [0.9, 0.4, 0.2]], cell=np.eye(3) * 2.6, pbc=True)
    model = small()
    twice = made.repeat((2, 1, 1))
    one, two = model.raw([made]), model.raw([twice])
    torch.testing.assert_close(two, 2 * one, rtol=0, atol=1e-11)
    axes = ase.Atoms("OHHHH", [[0, 0, 0], [0, 1.1, 0], [0, -1.2, 0], [1.3, 0, 0], [0, 0, -1]])
    turned = ase.Atoms(axes.numbers, axes.positions @ rotation().T)
    torch.testing.assert_close(model.raw([turned]), model.raw([axes]), rtol=0, atol=1e-11)


def test_several_targets_share_one_trunk():
    model = small(targets=("U0", "mu"), units=("eV", "D"))
    values = model.predict(molecules())
    assert set(values) == {"U0", "mu"}
    assert np.abs(values["U0"] - values["mu"]).max() > 1e-6


def test_dropout_is_for_training_alone():
    model, made = small(), molecules()
    still = model.raw(made)
    assert torch.equal(model.raw(made), still)
    model.train()
    assert (model.raw(made) - still).abs().max() > 1e-6


@pytest.mark.parametrize(("mode", "output"), [*((m, "scalar") for m in MODES), ("off", "vector")])
def test_tiles_and_the_plain_formula_agree(mode, output, monkeypatch):
    monkeypatch.setattr(edge_frame, "TILE", 5)  # several tiles, the last one not full
    model, graph = small(polarization=mode, outputs=(output,)), graph_of(molecules())
    found = []
    for kernels, function in (
        ("0", tiles.messages),
        ("1", frame_messages.plain),
        ("1", tiles.messages),
    ):
        monkeypatch.setenv("NEUPOL_KERNELS", kernels)
        monkeypatch.setattr(tiles, "messages", function)
        graph.positions.requires_grad_()
        values = model.network(graph)
        inputs = [graph.positions, *model.parameters()]
        gradients = torch.autograd.grad(values.square().sum(), inputs, allow_unused=True)
        found.append([values.detach(), *(g for g in gradients if g is not None)])
    for plain, framed, tiled in zip(*found, strict=True):
        bound = 1e-12 * max(1, plain.abs().max())
        torch.testing.assert_close(framed, plain, rtol=0, atol=bound)
        torch.testing.assert_close(tiled, plain, rtol=0, atol=bound)


def test_without_kernels_none_is_called(monkeypatch):
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(tiles, "messages", None)  # whoever calls it fails
    monkeypatch.setattr(edge_frame.Frames, "__call__", None)
    small().predict(molecules(), forces=True)


def test_edges_stand_beside_their_reverse():
    graph = graph_of(molecules())
    edges = Edges.of(neighbours(graph, graph.positions, 4.0), graph.positions, graph.batch)
    first, second = edge_frame.paired(edges)
    assert len(first) == len(second) == len(edges.receivers) // 2
    assert torch.equal(edges.receivers[first], edges.senders[second])
    assert torch.equal(edges.vectors[first], -edges.vectors[second])
    received = Edges(edges.receivers[:7], edges.senders[:7], edges.vectors[:7])
    first, second = edge_frame.paired(received)
    assert torch.equal(torch.cat((first, second)).sort().values, torch.arange(7))
