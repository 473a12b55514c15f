"""The equivariant transformer: published numbers, symmetries, derivatives, shared pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import Refused, Usage
from neupol_cli.models import vector_attention, vector_attention_fused, vector_update
from neupol_cli.models.distance import ENCODINGS
from neupol_cli.models.graph import Edges, Graph, neighbours
from neupol_cli.models.pairs import Pairs
from neupol_cli.models.vector_attention_radial import Parts, Shape

PARITY = Path(__file__).parents[1] / "data" / "parity"
FILES = ("equivariant_transformer", "equivariant_transformer_forces")
PERIODIC = "equivariant_transformer_periodic"
SMALL: dict[str, Any] = {"hidden": 32, "layers": 3, "heads": 4, "encoding_size": 8}


def published(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """A file's arrays, its weights and its arguments."""
    with np.load(PARITY / f"{name}.npz") as file:
        data = dict(file)
    weights = {k.removeprefix("weights/"): data[k] for k in data if k.startswith("weights/")}
    return data, weights, json.loads(str(data["config"]))


def structures(data: dict[str, np.ndarray]) -> list[ase.Atoms]:
    cell = {"cell": data["cell"], "pbc": data["pbc"]} if "cell" in data else {}
    chosen = [data["batch"] == k for k in range(int(data["batch"].max()) + 1)]
    return [ase.Atoms(data["numbers"][k], data["positions"][k], **cell) for k in chosen]


def relative(ours: Any, theirs: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def model(seed: int = 0, lively: bool = True, **config: Any) -> Any:
    """A small network in float64; ``lively``: no weight is zero or small, points move by far."""
    torch.manual_seed(seed)
    network = registry.build("equivariant-transformer", {**SMALL, **config}).double()
    if lively:
        for name, weight in network.named_parameters():
            if "polarization" in name:
                torch.nn.init.normal_(weight, std=0.1)
            elif weight.dim() == 1:
                weight.data.add_(0.2 * torch.randn_like(weight))
    return network


def molecule(seed: int = 0, atoms: int = 7) -> ase.Atoms:
    rng = np.random.default_rng(seed)
    places = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), 1) * 1.4
    positions = places[rng.permutation(27)[:atoms]] + rng.normal(0, 0.1, (atoms, 3))
    return ase.Atoms(rng.choice([1, 6, 7, 8], atoms), positions)


def graph(*molecules: ase.Atoms) -> Graph:
    return Graph.from_atoms(molecules, torch.float64)


@pytest.mark.parametrize("variant", ["", "_paper_cutoff"])
@pytest.mark.parametrize("name", [*FILES, PERIODIC])
def test_published_energies_and_forces(name: str, variant: str) -> None:
    data, weights, config = published(name)
    config["vector_cutoff"] = variant == ""
    network = registry.from_published("equivariant-transformer", weights, config)
    assert relative(network.raw(structures(data)), data[f"energy{variant}"]) < 1e-10
    if f"forces{variant}" in data:
        _, forces, _ = network.derivatives(graph(*structures(data)))
        assert relative(forces, data[f"forces{variant}"]) < 1e-10


@pytest.mark.parametrize("name", [*FILES, PERIODIC])
def test_published_features_of_every_layer(name: str) -> None:
    data, weights, config = published(name)
    backbone = registry.from_published("equivariant-transformer", weights, config).backbone
    batch = graph(*structures(data))
    topology = neighbours(batch, batch.positions, backbone.cutoff)
    edges = Edges.of(topology, batch.positions, batch.batch, batch.cell)
    hidden = config["embedding_dimension"]
    state = backbone.embed(backbone.types(batch.numbers), edges).detach()
    assert len(topology.receivers) + len(batch.numbers) == int(data["number_of_edges"])
    assert relative(state[:, :hidden], data["scalar_features/0"]) < 1e-10
    for k, layer in enumerate(backbone.layers, start=1):
        state = layer(state, edges).detach()
        vectors = state[:, hidden:].unflatten(1, (hidden, 3)).transpose(1, 2)
        assert relative(state[:, :hidden], data[f"scalar_features/{k}"]) < 1e-10
        assert relative(vectors, data[f"vector_features/{k}"]) < 1e-10


@pytest.mark.parametrize("place", ["config", "weights"])
def test_published_reference_energies_of_atoms(place: str) -> None:
    data, weights, config = published(FILES[0])
    energies = config["atomref"]
    if place == "weights":
        table = np.zeros((100, 1))
        table[[int(z) for z in energies]] = np.array([*energies.values()])[:, None]
        weights["prior_model.0.atomref.weight"] = table
        config |= {"atomref": None, "prior_model": [{"Atomref": {"max_z": 100}}]}
    network = registry.from_published("equivariant-transformer", weights, config)
    for element, energy in energies.items():
        known = network.config.species.index(int(element))
        assert float(network.reference[0, known]) == energy
    with torch.no_grad():
        total = network(graph(*structures(data)))[:, 0]
    assert relative(total, data["energy_with_atomref"]) < 1e-10
    predicted = network.predict(structures(data))["prediction"]
    np.testing.assert_allclose(predicted, data["energy_with_atomref"], rtol=0, atol=1e-9)


def test_published_mean_and_spread_are_counted_once() -> None:
    data, weights, config = published(FILES[1])
    assert config["mean"] != 0 and config["std"] != 1
    network = registry.from_published("equivariant-transformer", weights, config)
    with torch.no_grad():
        assert relative(network(graph(*structures(data)))[:, 0], data["energy"]) < 1e-10


def test_published_priors_that_are_not_built_are_refused() -> None:
    _, weights, config = published(FILES[0])
    for prior, message in (("D2", "'D2' is not built"), ("Atomref", "without its table")):
        changed = {**config, "prior_model": prior, "atomref": None}
        with pytest.raises(Refused, match=message):
            registry.from_published("equivariant-transformer", weights, changed)


def test_published_variants_that_are_not_built_are_refused() -> None:
    _, weights, config = published(FILES[0])
    with pytest.raises(Refused, match="distance_influence='keys'"):
        changed = {**config, "distance_influence": "keys"}
        registry.from_published("equivariant-transformer", weights, changed)
    del weights["representation_model.out_norm.bias"]
    with pytest.raises(Refused, match="out_norm"):
        registry.from_published("equivariant-transformer", weights, config)


def test_heads_that_do_not_share_out_the_channels_are_refused() -> None:
    with pytest.raises(Usage, match="hidden=30"):
        model(hidden=30, heads=4)


def test_published_checkpoint_is_recognised(tmp_path: Path) -> None:
    data, weights, config = published(FILES[1])
    older = {
        f"model.{k}".replace(".layers.0", ".0"): torch.as_tensor(v) for k, v in weights.items()
    }
    older = {k.replace("update_net.layers.2", "update_net.2"): v for k, v in older.items()}
    path = tmp_path / "epoch=99.ckpt"
    torch.save({"state_dict": older, "hyper_parameters": config}, path)
    network = registry.load(str(path))
    assert relative(network.raw(structures(data)), data["energy"]) < 1e-10


@pytest.mark.parametrize("polarization", ["off", "frozen", "movable"])
@pytest.mark.parametrize("smooth", [True, False])
def test_symmetries(polarization: str, smooth: bool) -> None:
    network = model(polarization=polarization, vector_cutoff=smooth)
    one = molecule()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    order = np.random.default_rng(4).permutation(len(one))
    for improper in (turn, -turn):
        other = one[order]
        other.positions = other.positions @ improper.T + [3.0, -5.0, 7.0]
        value, force, _ = network.derivatives(graph(one))
        turned, turned_force, _ = network.derivatives(graph(other))
        assert torch.allclose(value, turned, rtol=0, atol=1e-11)
        expected = force[torch.as_tensor(order)] @ torch.as_tensor(improper.T)
        assert torch.allclose(turned_force, expected, rtol=0, atol=1e-10)


def test_points_move_and_turn_with_the_molecule() -> None:
    network = model(polarization="movable")
    one, other = molecule(), molecule()
    mirror = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    other.positions = other.positions @ mirror.T
    with torch.no_grad():
        paths = [network.polarization(network.backbone, graph(m))[1] for m in (one, other)]
    moved = paths[0][-1] - paths[0][0]
    assert moved.norm(dim=1).max() > 1e-2
    turned = paths[1][-1] - paths[1][0]
    assert torch.allclose(turned, moved @ torch.as_tensor(mirror.T), rtol=0, atol=1e-11)


@pytest.mark.parametrize("polarization", ["off", "frozen", "movable"])
def test_structures_of_a_batch_do_not_see_each_other(polarization: str) -> None:
    network = model(polarization=polarization, targets=("a", "b"), units=("", ""))
    molecules = [molecule(k, atoms) for k, atoms in enumerate((7, 1, 12))]
    with torch.no_grad():
        together = network(graph(*molecules))
        alone = torch.cat([network(graph(m)) for m in molecules])
    assert together.shape == (3, 2)
    assert torch.allclose(together, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("polarization", ["off", "movable"])
def test_forces_are_the_derivative_of_the_energy(polarization: str) -> None:
    network = model(polarization=polarization)
    batch = graph(molecule())
    _, force, _ = network.derivatives(batch)
    along = torch.randn_like(force)
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (network(batch.at(batch.positions + s * along)) for s in (step, -step))
    slope = (ahead - behind).sum() / (2 * step)
    assert abs(slope + (force * along).sum()) < 1e-6 * force.abs().max()


@pytest.mark.parametrize("polarization", ["off", "movable"])
def test_stress_is_the_derivative_by_a_strain(polarization: str) -> None:
    network = model(polarization=polarization, cutoff=3.0)
    cell = ase.Atoms("CO", [[0, 0, 0], [1.2, 0.3, 0.1]], cell=[2.9, 3.6, 4.0], pbc=True)
    _, _, stress = network.derivatives(graph(cell), stress=True)
    strain = np.array([[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.2]])
    found = []
    for step in (1e-5, -1e-5):
        strained = cell.copy()
        strained.set_cell(cell.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
        with torch.no_grad():
            found.append(float(network(graph(strained))[0, 0]))
    slope = (found[0] - found[1]) / 2e-5 / cell.get_volume()
    assert abs(slope - float((stress[0] * torch.as_tensor(strain)).sum())) < 1e-8


@pytest.mark.parametrize("polarization", ["off", "frozen", "movable"])
def test_training_on_forces_has_the_right_gradient(polarization: str) -> None:
    network = model(polarization=polarization)
    batch = graph(molecule(1), molecule(2, 5))

    def loss(create_graph: bool) -> torch.Tensor:
        values, force, _ = network.derivatives(batch, create_graph=create_graph)
        return values.square().sum() + force.square().sum()

    weights = list(network.parameters())
    gradient = torch.autograd.grad(loss(True), weights, allow_unused=True)
    along = [torch.randn_like(w) for w in weights]
    expected = sum((g * a).sum() for g, a in zip(gradient, along, strict=True) if g is not None)
    found = []
    for step in (1e-5, -2e-5):
        for weight, a in zip(weights, along, strict=True):
            weight.data.add_(step * a)
        found.append(loss(False).detach())
    slope = (found[0] - found[1]) / 2e-5
    assert abs(slope - expected) < 1e-5 * abs(expected)


@pytest.mark.parametrize("polarization", ["frozen", "movable"])
def test_points_on_their_atoms_have_finite_derivatives(polarization: str) -> None:
    network = model(lively=False, polarization=polarization)
    values, force, _ = network.derivatives(graph(molecule()), create_graph=True)
    (values.sum() + force.square().sum()).backward()
    gradients = {n: w.grad for n, w in network.named_parameters() if w.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    moving = [g for n, g in gradients.items() if "polarization" in n]
    assert len(moving) == (2 if polarization == "movable" else 0)
    assert all(g.abs().max() > 0 for g in moving)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_any_distance_encoding_will_do(encoding: str) -> None:
    network = model(encoding=encoding, polarization="movable")
    values, force, _ = network.derivatives(graph(molecule()), create_graph=True)
    (values.sum() + force.square().sum()).backward()
    assert values.isfinite().all() and force.abs().max() > 0
    learned = [w for n, w in network.named_parameters() if "encoding" in n]
    assert all(w.grad is not None and w.grad.isfinite().all() for w in learned)
    assert bool(learned) == (encoding in ("learned", "mlp"))


def test_energy_is_continuous_where_an_atom_leaves() -> None:
    network = model(cutoff=3.0)
    near, far = (ase.Atoms("C2", [[0, 0, 0], [x, 0, 0]]) for x in (3 - 1e-7, 3 + 1e-7))
    with torch.no_grad():
        energies = network(graph(near, far))[:, 0]
    assert abs(energies[0] - energies[1]) < 1e-11


def test_periodic_images_count_each() -> None:
    network = model(cutoff=3.0)
    cell = ase.Atoms("CO", [[0, 0, 0], [1.2, 0.3, 0.1]], cell=[2.5, 3.6, 4.0], pbc=True)
    with torch.no_grad():
        one, eight = network(graph(cell)), network(graph(cell.repeat(2)))
    assert torch.allclose(8 * one, eight, rtol=0, atol=1e-10)


def test_the_published_size_less_what_nobody_reads() -> None:
    network = registry.build("equivariant-transformer", {"species": tuple(range(100))})
    h, k = 256, 64
    first = (h + 1) * 3 * h + (k + 1) * h + 3 * h * h  # v1, o1, o2; dv1; the vectors' product
    last = 128 + 129  # the last block's vectors and their gate
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 6_864_898 - first - last


def edges_of(molecules: ase.Atoms, cutoff: float = 3.0) -> Edges:
    batch = graph(molecules)
    topology = neighbours(batch, batch.positions, cutoff)
    return Edges.of(topology, batch.positions, batch.batch, batch.cell)


def received_by(edges: Edges, first: int) -> Edges:
    """The edges that point ``first`` and later ones receive: one way only, for some pairs."""
    kept = edges.receivers >= first
    return Edges(edges.receivers[kept], edges.senders[kept], edges.vectors[kept])


def in_pairs(pairs: Pairs) -> set[tuple[int, int, float, float, float]]:
    """The edges that some pairs stand for."""
    found = set()
    for tile, ways in pairs.tiles(5):
        for way in ways:
            vectors = (pairs.edges.vectors[tile] * way.sign).tolist()
            names = zip(way.receivers.tolist(), way.senders.tolist(), strict=True)
            found |= {(*n, *np.round(v, 9)) for n, v in zip(names, vectors, strict=True)}
    return found


def test_pairs_stand_for_every_edge_once() -> None:
    small = ase.Atoms("CO", [[0, 0, 0], [1.2, 0.3, 0.1]], cell=[2.5, 3.6, 4.0], pbc=True)
    for edges, halved in (
        (edges_of(molecule()), True),
        (received_by(edges_of(molecule()), 3), False),
        (edges_of(small), False),
    ):
        vectors = np.round(edges.vectors.numpy(), 9).tolist()
        names = zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True)
        expected = {(*n, *v) for n, v in zip(names, vectors, strict=True)}
        pairs = Pairs.of(edges)
        assert in_pairs(pairs) == expected
        assert len(pairs) + pairs.mutual == len(expected) == len(vectors)
        assert (2 * len(pairs) == len(expected)) == halved


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("has_vectors", [True, False])
@pytest.mark.parametrize("loops", ["compiled", "compiled, two threads", "of operations"])
def test_tiles_and_their_derivatives_are_the_plain_formula(
    loops: str, has_vectors: bool, smooth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUPOL_FUSED", "0" if loops == "of operations" else "1")
    if loops != "of operations" and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2 if "two" in loops else 1)
    torch.manual_seed(0)
    monkeypatch.setattr(vector_attention, "TILE_NUMBERS", 20 * 8)
    monkeypatch.setattr(vector_attention_fused, "TILE_NUMBERS", 16 * 32)
    pairs = Pairs.of(received_by(edges_of(molecule(0, 9), 5.0), 2)).with_own(9)
    count, points, hidden, blocks = len(pairs), 9, 8, 4 if has_vectors else 3
    sizes = Parts(
        points=torch.empty(points, 4 * hidden),
        vectors=torch.empty(points, 3 if has_vectors else 0, hidden),
        encoded=torch.empty(count, 5),
        weight=torch.empty(blocks * hidden, 5),
        bias=torch.empty(blocks * hidden),
        envelope=torch.empty(count, 1),
        directions=torch.empty(count, 3),
    )
    library = vector_attention_fused.library(sizes.points.double(), Shape(2, smooth))
    assert (library is None) == (loops == "of operations")
    parts = Parts(*(torch.randn_like(s, dtype=torch.float64) for s in sizes))
    there = [k for k, part in enumerate(parts) if part.numel()]
    known = [parts[k].requires_grad_() for k in there]
    gradient = [
        torch.randn(points, *rest, dtype=torch.float64, requires_grad=True)
        for rest in ((hidden,), (3, hidden))
    ]
    shape = Shape(2, smooth)
    rates = [torch.randn_like(part) for part in parts]
    bent = [torch.randn_like(part) for part in (*gradient, *known)]

    def derivatives(function: Any, weights_too: bool) -> list[torch.Tensor]:
        out = function(parts, pairs, shape)
        first = torch.autograd.grad(out, known, gradient, create_graph=True)
        moved = [weights_too or Parts._fields[k] not in ("weight", "bias") for k in there]
        inputs = [*gradient, *known]
        second = torch.autograd.grad(
            [derivative for derivative, moves in zip(first, moved, strict=True) if moves],
            inputs,
            [rates[k] for k, moves in zip(there, moved, strict=True) if moves],
            create_graph=weights_too,
        )
        third: tuple[torch.Tensor, ...] = ()
        if weights_too:
            third = torch.autograd.grad(second, inputs, bent)
        return [*out, *first, *second, *third]

    def bent_twice(function: Any) -> tuple[torch.Tensor, ...]:
        """Where the gradient depends on the parts, and weights have a rate."""
        x, y = function(parts, pairs, shape)
        first = torch.autograd.grad(x.square().sum() + y.square().sum(), known, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), known)

    for weights_too in (False, True):
        by_tiles = derivatives(vector_attention.attention, weights_too)
        by_formula = derivatives(vector_attention.plain, weights_too)
        for a, b in zip(by_tiles, by_formula, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))
    for a, b in zip(
        bent_twice(vector_attention.attention), bent_twice(vector_attention.plain), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))
    still = parts._replace(
        encoded=parts.encoded.detach(),
        envelope=parts.envelope.detach(),
        directions=parts.directions.detach(),
    )
    outs = [f(still, pairs, shape) for f in (vector_attention.attention, vector_attention.plain)]
    trained = [part for part in still if part.requires_grad]
    ours, theirs = (torch.autograd.grad(out, trained, gradient) for out in outs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))


@pytest.mark.parametrize("operation", ["scaled", "update", "unpacked", "packed"])
@pytest.mark.parametrize("loops", ["compiled", "of operations"])
def test_steps_at_points_and_their_derivatives(
    loops: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUPOL_FUSED", "0" if loops == "of operations" else "1")
    torch.manual_seed(0)
    points, h = 5, 6
    sizes: dict[str, list[tuple[int, ...]]] = {
        "scaled": [(3, h), (h,)],
        "update": [(4 * h,), (3 * h,), (3, 3 * h), (3, h)],
        "unpacked": [(4 * h,)],
        "packed": [(h,), (3, h)],
    }
    inputs = [
        torch.randn(points, *size, dtype=torch.float64, requires_grad=True)
        for size in sizes[operation]
    ]
    function = getattr(vector_update, operation)
    assert torch.autograd.gradcheck(function, inputs, atol=1e-8)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-8)
    formulas = {
        "scaled": lambda v, f: v * f[:, None],
        "update": lambda state, *rest: state + vector_update.plain_update(*rest),
    }
    if operation not in formulas:
        return
    bent = [torch.randn_like(each) for each in inputs]

    def derivatives(formula: Any) -> list[torch.Tensor]:
        out = formula(*inputs)
        total = out.square().sum() / 2
        found = [out]
        for order in range(3):
            first = torch.autograd.grad(total, inputs, create_graph=order < 2)
            total = sum((g * b).square().sum() for g, b in zip(first, bent, strict=True))
            found += first
        return found

    for a, b in zip(derivatives(function), derivatives(formulas[operation]), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))
