"""ChargE3Net: published values, periodicity, movable points, options."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path as FilePath

import ase
import ase.build
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.models import polarization
from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.irreps import atom_irreps
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.nn.graph import Graph

DATA = FilePath(__file__).parents[2] / "data" / "parity"
FILES = ("molecule", "crystal", "spin_nonplanar")


def weights(data):
    return {k[8:]: torch.from_numpy(data[k]) for k in data.files if k.startswith("weights/")}


def published(data):
    return ChargE3Net.from_published(weights(data), json.loads(str(data["config"])))


def graph_of(data):
    arrays = [torch.from_numpy(data[k]) for k in ("numbers", "positions", "cell", "pbc")]
    count = torch.tensor([len(arrays[0])])
    return Graph.from_arrays(arrays[0], arrays[1], count, arrays[2][None], arrays[3][None])


def flat(features, irreps):
    """Our features in the published layout, zero where we leave an irrep out."""
    like = next(iter(features.values()))
    blocks = [
        features[k].transpose(1, 2).flatten(1)
        if k in features
        else like.new_zeros(len(like), mul * (2 * k[0] + 1))
        for k, mul in irreps.items()
    ]
    return torch.cat(blocks, 1)


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("name", FILES)
def test_published_weights_give_the_published_density(monkeypatch, name, kernels):
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    data = np.load(DATA / f"charge3net_{name}.npz")
    network = published(data)
    with torch.no_grad():
        density = network(graph_of(data), torch.from_numpy(data["probes"])[None])
    reference = torch.from_numpy(data["density"])
    scale = reference.abs().max().item()
    torch.testing.assert_close(density, reference, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", FILES)
def test_published_weights_give_the_published_atom_features(name):
    data = np.load(DATA / f"charge3net_{name}.npz")
    network = published(data)
    with torch.no_grad():
        layers = network.encode(graph_of(data)).layers
    for n, (ours, irreps) in enumerate(zip(layers, atom_irreps(network.config)[1:], strict=True)):
        reference = torch.from_numpy(data[f"atom_features/{n}"])
        found = flat(ours, irreps)
        if n == len(layers) - 1 and not network.config.spin:
            # The last layer keeps the natural parity only: nobody reads the rest.
            kept = flat({k: torch.ones_like(v) for k, v in ours.items()}, irreps)
            reference = reference * kept
        scale = reference.abs().max().item()
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-10 * scale)


def test_dropped_weights_are_said_to_be(caplog):
    data = np.load(DATA / "charge3net_molecule.npz")
    with caplog.at_level(logging.INFO, logger="neupol"):
        network = published(data)
    kept = sum(p.numel() for p in network.parameters())
    total = sum(v.size for k, v in data.items() if k.endswith(".weight"))
    assert f"{total - kept} of {total} published weights" in caplog.text


@pytest.mark.parametrize("wrapped", ["model", "state_dict"])
def test_both_forms_of_published_checkpoint(wrapped):
    data = np.load(DATA / "charge3net_molecule.npz")
    plain = weights(data)
    prefix = "network." if wrapped == "state_dict" else ""
    checkpoint = {wrapped: {prefix + k: v for k, v in plain.items()}, "epoch": 3}
    given = {"num_neighbors": 20, "cutoff": 4.0}
    network = ChargE3Net.from_published(checkpoint, given)
    for a, b in zip(network.parameters(), published(data).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
def test_a_published_file_is_known_by_its_weights(tmp_path, wrapped):
    from neupol_cli import registry

    data = np.load(DATA / "charge3net_molecule.npz")
    prefix = "network." if wrapped == "state_dict" else ""
    named = {prefix + k: v for k, v in weights(data).items()}
    torch.save({wrapped: named, "epoch": 3} if wrapped else named, tmp_path / "published.pt")
    network = registry.load(str(tmp_path / "published.pt"), dtype=torch.float64)
    expected = published(data)
    assert atom_irreps(network.config) == atom_irreps(expected.config)
    for a, b in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    for other in ([1, 2], {"model": 3}, {"state_dict": {"weight": torch.zeros(1)}}):
        assert ChargE3Net.recognise(other) is None


def test_published_weights_of_another_size_are_refused():
    data = np.load(DATA / "charge3net_molecule.npz")
    config = json.loads(str(data["config"])) | {"mul": 44}
    with pytest.raises(CheckpointError, match="numbers, its arguments give"):
        ChargE3Net.from_published(weights(data), config)


def test_unknown_element_is_named():
    network = ChargE3Net(ChargE3NetConfig(species=(1, 8), mul=10, lmax=1, layers=1))
    graph = Graph.from_arrays(torch.tensor([8, 1, 6]), torch.rand(3, 3), torch.tensor([3]))
    with pytest.raises(InputError, match="atom 3 has atomic number 6"):
        network.encode(graph)


# From here on our own networks. What holds of every density network is in tests/contracts.


def small(seed=0, **more):
    torch.manual_seed(seed)
    settings = {"species": (1, 6, 8), "mul": 24, "lmax": 2, "layers": 3, "embedding": 8} | more
    network = ChargE3Net(ChargE3NetConfig(**settings)).double().eval()
    for parameter in network.motion.maps:
        torch.nn.init.normal_(parameter, std=0.3)
    if network.promolecule is not None:
        network.promolecule.coefficients[: len(network.config.species)].normal_()
    return network


def molecule():
    from ase.build import molecule

    return molecule("CH3CH2OH")


def crystal(pbc=(True, True, True)):
    """A skewed cell much smaller than the cutoff."""
    cell = [[2.9, 0.2, 0.0], [-0.9, 2.6, 0.3], [0.4, 0.5, 3.1]]
    atoms = ase.Atoms(
        "COH", [[0.1, 0.2, 0.3], [1.4, 1.1, 0.9], [0.7, 2.0, 2.2]], cell=cell, pbc=pbc
    )
    return atoms


def density(network, atoms, probes):
    return network.density(network.atom_features(atoms), probes)


def scatter(count=60, seed=3, size=4.0):
    return (
        torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 0.3
    ).double() * size


@pytest.mark.parametrize("pbc", [(True, False, False), (False, True, True), (True, True, True)])
def test_a_periodic_cell_is_its_cluster(pbc):
    """Partly periodic cells against the same atoms written out, where nothing is periodic."""
    network, atoms, probes = small(layers=1), crystal(pbc), scatter(40, size=3.0)
    reach = [7 if periodic else 0 for periodic in pbc]
    turns = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    shifts = turns.reshape(-1, 3) @ atoms.cell.array
    order = np.argsort(np.linalg.norm(shifts, axis=1))
    positions = (atoms.positions[None] + shifts[order][:, None]).reshape(-1, 3)
    numbers = np.tile(atoms.numbers, len(shifts))
    # One layer: what a probe reads has a range of two cutoffs.
    near = np.linalg.norm(positions - probes.numpy().mean(0), axis=1) < 13
    cluster = ase.Atoms(numbers[near], positions[near])
    expected, found = density(network, cluster, probes), density(network, atoms, probes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


def test_float32_and_its_table_agree_with_float64():
    network, atoms, probes = small(promolecule=4), molecule(), scatter(200)
    exact = density(network, atoms, probes)
    found = density(network.float(), atoms, probes)
    assert found.dtype == torch.float32
    scale = exact.abs().max().item()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * scale)


def test_probes_without_atoms_have_one_value_and_no_cost():
    network = small()
    features = network.atom_features(molecule())
    far = torch.full((3, 3), 40.0, dtype=torch.float64)
    near = torch.zeros(1, 3, dtype=torch.float64)
    found = network.density(features, torch.cat((far, near)))
    assert torch.equal(found[:3], torch.zeros(3, dtype=torch.float64))
    assert found[3] != 0
    assert network.density(features, torch.zeros(0, 3)).shape == (0,)


def test_movable_points_move_and_are_learnt():
    network = small(polarization="movable")
    graph = Graph.from_atoms([molecule()], torch.float64)
    points = network.encode(graph).points.positions
    assert (points[9:] - points[:9]).norm(dim=1).min() > 1e-4
    network(graph, scatter(20)[None]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.motion.maps)
    modes = "frozen", "movable", "late"
    assert [len(small(polarization=mode).motion.maps) for mode in modes] == [0, 3, 1]
    frozen = small(polarization="frozen").encode(graph).points.positions
    assert torch.equal(frozen[9:], frozen[:9])


@pytest.mark.parametrize("mode", ["frozen", "movable"])
@pytest.mark.parametrize("kernels", ["0", "1"])
def test_points_on_their_atoms_are_summed_once(mode, kernels, monkeypatch):
    """An atom and the point on it receive the same: as with all four kinds of pairs."""
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    network, cell, probes = small(polarization=mode), crystal(), scatter()
    found = density(network, cell, probes)
    monkeypatch.setattr(polarization, "_coinciding", lambda *_: None)
    wanted = density(network, cell, probes)
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def late(**settings):
    """A network with late points that send, and one without that has its other weights."""
    network, plain = small(polarization="late", **settings), small(**settings)
    for weights in network.probes.late.parameters():
        torch.nn.init.normal_(weights)
    state = network.state_dict()
    plain.load_state_dict({k: state[k] for k in plain.state_dict()})
    return network, plain


def test_late_points_start_as_nothing():
    network, plain = late()
    with torch.no_grad():
        for weights in network.probes.late.parameters():
            weights.zero_()
    found, expected = (density(n, molecule(), scatter()) for n in (network, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * expected.abs().max().item())
    fresh = small(polarization="late")
    assert all(not w.any() for w in [*fresh.probes.late.parameters()])


def test_late_points_that_stay_are_a_second_map():
    network, plain = late(layers=3)
    with torch.no_grad():
        network.motion.maps[0].zero_()
        for layer, moved in zip(plain.probes.layers, network.probes.late, strict=True):
            layer.lin1.weight += moved.weight
    found, expected = (density(n, molecule(), scatter()) for n in (network, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def test_late_points_send_what_their_atoms_are_from_where_they_went():
    network, plain = late(layers=3)
    graph = Graph.from_atoms([molecule()], torch.float64)
    with torch.no_grad():
        for layer in network.probes.layers:
            layer.lin1.weight.zero_()
        for layer, moved in zip(plain.probes.layers, network.probes.late, strict=True):
            layer.lin1.weight.copy_(moved.weight)
        moved, still = network.encode(graph), plain.encode(graph)
        at = moved.points.positions[9:]
        assert (at - graph.positions).norm(dim=1).min() > 1e-3
        assert [torch.equal(x, graph.positions) for x in moved.path] == [True, True, True, False]
        elsewhere = replace(still, points=graph.at(at))
        found, expected = network.at(moved, scatter()[None]), plain.at(elsewhere, scatter()[None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("mode", ["movable", "late"])
def test_gradient_of_movable_points_is_right(mode):
    """Through neighbourhoods, harmonics, tables and padded edges, against finite differences."""
    network = small(polarization=mode, lmax=1, mul=8, layers=2)
    for weights in network.probes.late.parameters():
        torch.nn.init.normal_(weights)
    graph = Graph.from_atoms([molecule()[:4]], torch.float64)
    probes, weight = scatter(10)[None], network.motion.maps[0]

    def total():
        return network(graph, probes).square().sum()

    total().backward()
    with torch.no_grad():
        weight[0] += 1e-5
        above = total()
        weight[0] -= 2e-5
        below = total()
    expected = ((above - below) / 2e-5).item()
    assert abs(weight.grad[0].item() - expected) < 1e-6 * max(1.0, abs(expected))


def test_wrong_settings_say_what_there_is():
    with pytest.raises(UsageError, match="gaussian, learned"):
        small(encoding="bessel")
    with pytest.raises(UsageError, match="off, frozen, movable, late"):
        small(polarization="on")
    with pytest.raises(UsageError, match="goes with spin=true"):
        small(pseudoscalar_spin=True, layers=3)
    for sizes in ({"lmax": 1, "layers": 2}, {"lmax": 0, "layers": 3}):
        with pytest.raises(UsageError, match="needs lmax >= 1 and layers >= 3"):
            small(spin=True, pseudoscalar_spin=True, **sizes)


@pytest.mark.parametrize("lmax", [1, 2])
def test_three_layers_bring_pseudoscalars_to_probes(lmax):
    network = small(spin=True, pseudoscalar_spin=True, lmax=lmax, layers=3)
    atoms = ase.Atoms("CHHO", [[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0.1, 0.2, 1.2]])
    found = network.density(network.atom_features(atoms), scatter(8))
    assert found.shape == (8, 2) and (found[:, 0] - found[:, 1]).abs().min() > 1e-8


@pytest.mark.parametrize(("lmax", "least"), [(0, 1), (1, 4), (2, 8), (3, 15), (4, 23)])
def test_every_degree_has_its_channels(lmax: int, least: int) -> None:
    """Published irreps are rounded: to nothing, where there are too few for a degree."""
    settings = {"species": (1, 6), "lmax": lmax, "layers": 2, "hidden": 8}
    model = registry.build("charge3net", settings | {"mul": least})
    benzene = ase.build.molecule("C6H6")
    assert model.density(benzene, torch.zeros(1, 3)).isfinite().all()
    if least > 1:
        with pytest.raises(UsageError, match=f"it is {least} at least"):
            registry.build("charge3net", settings | {"mul": least - 1})
