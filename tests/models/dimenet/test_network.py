"""DimeNet++ against PyTorch Geometric's numbers, and what must hold of it by itself."""

from __future__ import annotations

import math

import ase
import ase.build
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.dimenet.kernels import choice
from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.dimenet.spherical_basis import SphericalBessel, bessel_zeros, legendre
from neupol_cli.models.dimenet.triplets import TripletBasis
from neupol_cli.models.distance import ENCODINGS
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours


@pytest.fixture(scope="module")
def stored(parity):
    return parity("dimenetpp")


@pytest.fixture(scope="module")
def published(stored):
    return stored.model("dimenet")


@pytest.fixture(params=["1", "0"], ids=["kernels", "plain"])
def switch(request, monkeypatch):
    """With kernels, and without them."""
    monkeypatch.setenv("NEUPOL_KERNELS", request.param)
    monkeypatch.setattr(choice, "FEWEST", 0)
    return request.param


@pytest.fixture
def inner(stored, published, switch):
    """Edges, basis and blocks of the published network, and our order of the published edges."""
    graph = Graph.from_atoms(stored.structures, torch.float64)
    edges = Edges.of(neighbours(graph, graph.positions, 5.0), graph.positions, graph.batch)
    order = np.lexsort((stored["edges"][0], stored["edges"][1]))
    assert np.array_equal(edges.senders.numpy(), stored["edges"][0][order])
    assert np.array_equal(edges.receivers.numpy(), stored["edges"][1][order])
    network = published.backbone
    types = network.types(graph.numbers)
    return edges, network.basis(edges, len(types)), list(network.blocks(types, edges)), order


def close(ours, theirs, tolerance=1e-12):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=tolerance)


def test_prediction_equals_the_published(stored, published, switch):
    close(published.raw(stored.structures), stored["prediction"][:, 0])


def test_radial_basis_messages_and_outputs_equal_the_published(stored, inner):
    _, basis, blocks, order = inner
    close(basis.radial, stored["radial_basis"][order])
    for k, (messages, output) in enumerate(blocks):
        close(messages, stored[f"messages/{k}"][order])
        close(output, stored[f"atom_outputs/{k}"])


@pytest.mark.parametrize("switch", ["0"], indirect=True)
def test_triplets_and_their_basis_equal_the_published(stored, inner):
    _, basis, _, order = inner
    triplets = basis.angular.triplets
    place = np.argsort(order)  # published edge -> ours
    theirs = place[stored["triplets"]]  # (2, T) in our numbers
    listed = torch.stack((triplets.incoming, triplets.onward)).numpy()
    assert sorted(map(tuple, listed.T)) == sorted(map(tuple, theirs.T))

    rank = {pair: t for t, pair in enumerate(map(tuple, listed.T))}
    order = [rank[pair] for pair in map(tuple, theirs.T)]
    close(triplets.angles[order], stored["angles"])
    # Published closed forms of j_l lose digits at short distances; ours are held to 2e-12 below.
    close(basis.angular.sbf[order][:40], stored["angular_basis"], 5e-11)


CRYSTAL = ase.Atoms(
    "CO",
    [[0.1, 0, 0], [1.3, 1.5, 1.4]],
    cell=[[2.9, 0, 0.3], [0, 3.1, 0], [0.4, 0, 3.3]],
    pbc=True,
)


@pytest.mark.parametrize("encoding", ["bessel", "learned"])
@pytest.mark.parametrize("periodic", [False, True])
def test_fans_sum_what_a_list_of_triplets_sums_with_derivatives(encoding, periodic, monkeypatch):
    model = small(encoding=encoding)
    structures = [CRYSTAL] if periodic else [ethanol(), ase.build.molecule("CO2"), ase.Atoms("C")]
    graph = Graph.from_atoms(structures, torch.float64)
    answers = []
    for setting, layout in (("0", TripletBasis), ("1", FanBasis)):
        monkeypatch.setenv("NEUPOL_KERNELS", setting)
        edges = Edges.of(
            neighbours(graph, graph.positions, 5.0), graph.positions, graph.batch, graph.cell
        )
        assert isinstance(model.backbone.basis(edges, len(graph.numbers)).angular, layout)
        values, forces, _ = model.derivatives(graph, create_graph=True)
        second = torch.autograd.grad(forces.square().sum(), model.parameters(), allow_unused=True)
        answers.append([values, forces, *(slope for slope in second if slope is not None)])
    for plain, fans in zip(*answers, strict=True):
        torch.testing.assert_close(
            fans, plain, rtol=0, atol=1e-12 * float(plain.detach().abs().max())
        )


def test_without_kernels_none_is_called(monkeypatch):
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(FanBasis, "of", None)  # whoever calls it fails
    small().predict([ethanol()], forces=True)


def test_spherical_bessel_functions_in_both_precisions(stored):
    from scipy.special import spherical_jn

    zeros = stored["bessel_zeros"]
    np.testing.assert_allclose(bessel_zeros(7, 6), zeros, rtol=0, atol=5e-13)
    x = np.linspace(0, 1, 301)
    norms = [math.sqrt(2) / np.abs(spherical_jn(n + 1, z)) for n, z in enumerate(zeros)]
    exact = [norms[n] * spherical_jn(n, z * x[:, None]) for n, z in enumerate(zeros)]
    exact = np.concatenate(exact, 1)
    functions = SphericalBessel(7, 6)
    close(functions(torch.from_numpy(x)), exact, 2e-12)
    close(functions(torch.from_numpy(x).float()), exact, 2e-5)


def test_legendre_polynomials():
    c = np.linspace(-1, 1, 101)
    ours = legendre(torch.from_numpy(c), 7)
    for order in range(7):
        exact = np.polynomial.legendre.Legendre.basis(order)(c)
        close(ours[:, order], math.sqrt((2 * order + 1) / (4 * math.pi)) * exact)


def test_a_published_file_is_recognised(stored, tmp_path):
    weights = {name: torch.from_numpy(value) for name, value in stored.weights.items()}
    torch.save(weights, tmp_path / "dimenet.pt")
    model = registry.load(str(tmp_path / "dimenet.pt"))
    close(model.raw(stored.structures), stored["prediction"][:, 0])


SMALL = {
    "targets": ("energy",),
    "units": ("eV",),
    "hidden": 16,
    "layers": 2,
    "triplet": 8,
    "basis": 4,
    "output": 12,
    "species": (1, 6, 8),
    "output_start": "glorot",
}


def small(**more) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.build("dimenet", SMALL | more).double().eval()


def ethanol() -> ase.Atoms:
    return ase.build.molecule("CH3CH2OH")


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_forces_are_the_energys_slope_with_every_encoding(encoding):
    model = small(encoding=encoding)
    forces = model.predict([ethanol()], forces=True)["forces"]
    step = 1e-5
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        moved = []
        for sign in (1, -1):
            there = ethanol()
            there.positions[atom, axis] += sign * step
            moved.append(there)
        plus, minus = model.predict(moved)["energy"]
        error = forces[atom, axis] + (plus - minus) / (2 * step)
        assert abs(error) < 1e-8 * np.abs(forces).max()


@pytest.mark.parametrize("encoding", ["bessel", "learned"])
def test_forces_can_be_differentiated_again(encoding):
    model = small(encoding=encoding)
    graph = Graph.from_atoms([ethanol()], torch.float64)
    _, forces, _ = model.derivatives(graph, create_graph=True)
    parameter = model.backbone.embedding.species
    (slope,) = torch.autograd.grad(forces.square().sum(), parameter)
    with torch.no_grad():
        step = torch.zeros_like(parameter)
        step[1, 3] = 1e-5
        losses = []
        for sign in (1, -1):
            parameter += sign * step
            losses.append(float(model.derivatives(graph)[1].square().sum()))
            parameter -= sign * step
    assert abs(float(slope[1, 3]) - (losses[0] - losses[1]) / 2e-5) < 1e-8 * losses[0]


def test_a_straight_molecule_has_finite_forces_and_second_derivatives():
    straight = ase.Atoms("CO2", [[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
    for encoding in ("bessel", "learned"):
        model = small(encoding=encoding)
        graph = Graph.from_atoms([straight], torch.float64)
        _, forces, _ = model.derivatives(graph, create_graph=True)
        forces.square().sum().backward()
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()


def test_a_crystal_equals_its_supercell_and_counts_own_images():
    model = small(species=(6, 8))
    one, eight = model.predict([CRYSTAL, CRYSTAL.repeat((2, 2, 2))])["energy"]
    assert eight == pytest.approx(8 * one, abs=1e-9)


def test_a_lone_atom_and_a_pair_have_an_energy():
    model = small()
    values = model.predict([ase.Atoms("C"), ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])])["energy"]
    assert values[0] == 0.0
    assert math.isfinite(values[1]) and values[1] != 0.0


@pytest.mark.parametrize("encoding", ["bessel", "mlp", "learned"])
def test_points_without_edges_are_no_trouble(encoding):
    model = small(encoding=encoding)
    assert not model.predict([ase.Atoms("C")], forces=True)["forces"].any()
    gas = ase.Atoms("C" * 70, np.arange(70)[:, None] * [9.0, 0, 0])  # a fan without any edge
    pair = ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    alone = model.predict([pair])["energy"][0]
    assert model.predict([gas, pair])["energy"][1] == pytest.approx(alone, abs=1e-12)


def test_single_precision_stays_close():
    model = small()
    wide = model.predict([ethanol()], forces=True)
    narrow = model.float().predict([ethanol()], forces=True)
    assert narrow["energy"][0] == pytest.approx(wide["energy"][0], rel=1e-5)
    np.testing.assert_allclose(
        narrow["forces"], wide["forces"], rtol=0, atol=1e-5 * np.abs(wide["forces"]).max()
    )


def test_each_target_has_its_row():
    both = small(targets=("a", "b"), units=("eV", "D"))
    values = both.predict([ethanol()])
    assert values["a"].shape == (1,)
    assert values["a"][0] != values["b"][0]


def test_the_start_is_as_published():
    torch.manual_seed(0)
    model = registry.build("dimenet", {"species": tuple(range(95))})
    assert sum(p.numel() for p in model.parameters()) == 1_885_830
    block = model.backbone.layers[0]
    weight = block.before[0].first.weight
    assert float(weight.var().detach()) == pytest.approx(2 / 256, rel=1e-5)
    product = weight @ weight.t() / weight.square().sum(1).mean()
    torch.testing.assert_close(product, torch.eye(128), rtol=0, atol=1e-5)
    assert all(not output.heads.weight.any() for output in model.backbone.outputs)


@pytest.mark.parametrize("polarization", ["frozen", "movable"])
def test_polarization_is_refused(polarization):
    with pytest.raises(UsageError, match="takes no polarization"):
        registry.build("dimenet", {"polarization": polarization})


def test_an_unknown_start_is_refused():
    with pytest.raises(UsageError, match="zeros, glorot"):
        registry.build("dimenet", {"output_start": "ones"})
