"""The equivariant transformer: published numbers, symmetries, derivatives, shared pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import CheckpointError, UsageError
from neupol_cli.models.distance import ENCODINGS
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours

PARITY = Path(__file__).parents[2] / "data" / "parity"
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
        vectors = state[:, hidden:].unflatten(1, (3, hidden))
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
        with pytest.raises(CheckpointError, match=message):
            registry.from_published("equivariant-transformer", weights, changed)


def test_published_variants_that_are_not_built_are_refused() -> None:
    _, weights, config = published(FILES[0])
    with pytest.raises(CheckpointError, match="distance_influence='keys'"):
        changed = {**config, "distance_influence": "keys"}
        registry.from_published("equivariant-transformer", weights, changed)
    del weights["representation_model.out_norm.bias"]
    with pytest.raises(CheckpointError, match="out_norm"):
        registry.from_published("equivariant-transformer", weights, config)


def with_head(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    """Answers, weights and arguments of the published code with another output model."""
    with np.load(PARITY.parent / "equivariant_transformer_heads.npz") as file:
        data = dict(file)
    start = f"{name}/weights/"
    weights = {k.removeprefix(start): torch.from_numpy(data[k]) for k in data if start in k}
    return data, weights, json.loads(str(data[f"{name}/config"]))


@pytest.mark.parametrize("name", ["dipole", "extent"])
def test_published_dipoles_and_extents(name: str, tmp_path: Path) -> None:
    data, weights, config = with_head(name)
    network = registry.from_published("equivariant-transformer", weights, config)
    answer = data[f"{name}/answer"]
    assert network.offsets == (False,)
    assert relative(network.raw(structures(data)), answer) < 1e-10
    older = {
        f"model.{k.replace('_net.layers', '_net').replace('_network.layers', '_network')}": v
        for k, v in weights.items()
    }
    path = tmp_path / "epoch=9.ckpt"
    torch.save({"state_dict": older, "hyper_parameters": config}, path)
    again = registry.load(str(path), dtype=torch.float64)
    assert relative(again.raw(structures(data)), answer) < 1e-10


def test_published_dipoles_with_a_mean_are_refused() -> None:
    _, weights, config = with_head("dipole")
    with pytest.raises(CheckpointError, match="dipole with a mean"):
        weights["mean"] = torch.tensor(0.1)
        registry.from_published("equivariant-transformer", weights, config)
    with pytest.raises(CheckpointError, match="output_model='VectorOutput'"):
        changed = {**config, "output_model": "VectorOutput"}
        registry.from_published("equivariant-transformer", weights, changed)


@pytest.mark.parametrize("polarization", ["off", "frozen", "movable"])
def test_dipoles_and_extents_do_not_depend_on_the_frame(polarization: str) -> None:
    network = model(polarization=polarization, targets=("mu", "r2", "zpve"), units=("",) * 3)
    assert network.backbone.readouts == ("dipole", "extent", "scalar")
    one, two = molecule(), molecule(1, 5)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    order = np.random.default_rng(4).permutation(len(one))
    other = one[order]
    other.positions = other.positions @ -turn.T + [3.0, -5.0, 7.0]
    with torch.no_grad():
        alone = network(graph(one))
        assert alone.abs().min() > 1e-3
        assert torch.allclose(alone, network(graph(other)), rtol=0, atol=1e-10)
        assert torch.allclose(alone, network(graph(two, one))[1:], rtol=0, atol=1e-11)


def test_an_atom_alone_has_a_dipole_of_zero_that_learns() -> None:
    network = model(targets=("mu",), units=("D",))
    value = network(graph(ase.Atoms("H")))
    value.sum().backward()
    assert float(value.detach()) == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_outputs_are_chosen_by_name() -> None:
    plain = model(targets=("mu", "U0"), units=("D", "eV"), outputs=("scalar", "scalar"))
    assert plain.offsets == (True, True)
    message = "scalar, vector, dipole, extent for each of the targets mu, U0"
    for outputs in (("scalar",), ("scalar", "length")):
        with pytest.raises(UsageError, match=message):
            model(targets=("mu", "U0"), units=("D", "eV"), outputs=outputs)


def test_heads_that_do_not_share_out_the_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="hidden=30"):
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
