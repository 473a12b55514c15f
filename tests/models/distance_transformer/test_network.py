"""The distance transformer: its attention written out, symmetry, smoothness, what it refuses."""

from __future__ import annotations

import math

import ase
import ase.build
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.distance import ENCODINGS
from neupol_cli.models.distance_transformer.kernels import choice
from neupol_cli.models.distance_transformer.kernels.pair_blocks import PairBlocks
from neupol_cli.models.distance_transformer.pairs import EdgeProducts
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours

SMALL = {
    "targets": ("energy",),
    "units": ("eV",),
    "hidden": 16,
    "layers": 2,
    "heads": 4,
    "feed_forward": 24,
    "bias_hidden": 8,
    "species": (1, 6, 8),
}


def small(**more):
    torch.manual_seed(0)
    return registry.build("distance-transformer", SMALL | more).double().eval()


def molecules() -> list[ase.Atoms]:
    return [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O", "CO2")]


def edges_of(structures, cutoff=None) -> Edges:
    graph = Graph.from_atoms(structures, torch.float64)
    topology = neighbours(graph, graph.positions, cutoff)
    return Edges.of(topology, graph.positions, graph.batch, graph.cell)


def test_attention_is_the_formula_of_the_docstring():
    layer = small().backbone.layers[0].attention
    edges = edges_of([ase.build.molecule("H2O")])
    h = torch.randn(3, 16, dtype=torch.float64)
    q, k, v = layer.inputs(h).view(3, 3, 4, 4).unbind(1)
    bias = torch.empty(3, 3, 4, dtype=torch.float64)
    bias[edges.receivers, edges.senders] = layer.bias(edges)
    bias[range(3), range(3)] = layer.bias.own(edges)
    expected = torch.empty(3, 16, dtype=torch.float64)
    for i in range(3):
        for head in range(4):
            logits = torch.stack([q[i, head] @ k[j, head] / 2 + bias[i, j, head] for j in range(3)])
            expected[i, 4 * head : 4 * head + 4] = logits.softmax(0) @ v[:, head]
    torch.testing.assert_close(layer(h, edges), layer.output(expected), rtol=0, atol=1e-13)


def crystal() -> ase.Atoms:
    return ase.Atoms("CO", [[0, 0, 0], [1.2, 1.3, 1.5]], cell=[2.9, 3, 3.1], pbc=True)


@pytest.mark.parametrize("periodic", [False, True])
def test_dense_blocks_give_the_numbers_of_the_edges_with_derivatives(periodic):
    rng = torch.Generator().manual_seed(1)
    edges, points = (edges_of([crystal()], 4.0), 2) if periodic else (edges_of(molecules()), 15)
    q, k = torch.randn(2, points, 4, 5, generator=rng, dtype=torch.float64)
    target = torch.randn(points, 4, 5, generator=rng, dtype=torch.float64)
    blocks, plain = PairBlocks.of(edges, points), EdgeProducts(edges)
    assert blocks is not None
    answers = []
    for products in (plain, blocks):
        inputs = [q.clone().requires_grad_(), k.clone().requires_grad_()]
        scores = products.scores(*inputs)
        sums = products.sums(scores, inputs[1])
        slopes = torch.autograd.grad((sums * target).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)
        answers.append((scores, sums, *slopes, *second))
    for expected, actual in zip(*answers, strict=True):
        bound = 1e-13 * float(expected.detach().abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=max(bound, 1e-12))


def test_blocks_are_molecules_and_wasteful_ones_stay_edges():
    blocks = choice.pair_products(edges_of(molecules()), 15)
    assert isinstance(blocks, PairBlocks)
    assert (blocks.blocks, blocks.size) == (3, 9)
    chain = ase.Atoms("C" * 200, np.arange(200)[:, None] * [1.4, 0, 0])
    assert isinstance(choice.pair_products(edges_of([chain], 3.0), 200), EdgeProducts)


def test_without_kernels_the_network_goes_edge_by_edge(monkeypatch):
    model = small()
    fast = model.predict(molecules(), forces=True)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(PairBlocks, "__init__", None)  # whoever calls it fails
    plain = model.predict(molecules(), forces=True)
    for name, value in plain.items():
        np.testing.assert_allclose(fast[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_forces_are_the_energys_slope_with_every_encoding(encoding):
    model = small(encoding=encoding)
    ethanol = molecules()[0]
    forces = model.predict([ethanol], forces=True)["forces"]
    step = 1e-5
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        moved = [ethanol.copy(), ethanol.copy()]
        moved[0].positions[atom, axis] += step
        moved[1].positions[atom, axis] -= step
        plus, minus = model.predict(moved)["energy"]
        error = forces[atom, axis] + (plus - minus) / (2 * step)
        assert abs(error) < 1e-8 * max(1, np.abs(forces).max())


def test_forces_can_be_differentiated_again():
    model = small()
    graph = Graph.from_atoms(molecules(), torch.float64)
    parameter = model.backbone.layers[0].attention.bias.encoding.heights
    _, forces, _ = model.derivatives(graph, create_graph=True)
    (slope,) = torch.autograd.grad(forces.square().sum(), parameter)
    place = tuple(int(x) for x in torch.unravel_index(slope.abs().argmax(), slope.shape))
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter[place] += sign * 1e-5
            losses.append(float(model.derivatives(graph)[1].square().sum()))
            parameter[place] -= sign * 1e-5
    assert abs(float(slope[place]) - (losses[0] - losses[1]) / 2e-5) < 1e-8


def test_symmetry_and_alone_against_together():
    model = small()
    first = molecules()[0]
    order = np.random.default_rng(0).permutation(len(first))
    turned = first[order]
    turned.rotate(40, (1, 2, 3))
    turned.positions *= -1
    turned.positions += 3
    alone = model.predict([first])["energy"][0]
    together = model.predict([turned, *molecules()])["energy"]
    assert together[0] == pytest.approx(alone, abs=1e-11)
    assert together[1] == pytest.approx(alone, abs=1e-11)


def test_the_energy_is_smooth_at_the_cutoff():
    model = small(cutoff=4.0)

    def pair(distance):
        return ase.Atoms("CO", [[0, 0, 0], [0, 0, distance]])

    near, far, apart = model.predict([pair(4 - 1e-4), pair(4 + 1e-4), pair(8)])["energy"]
    assert far == pytest.approx(apart, abs=1e-13)
    assert abs(near - far) < 1e-7
    assert abs(model.predict([pair(3)])["energy"][0] - apart) > 1e-3


def test_a_crystal_equals_its_supercell():
    model = small(cutoff=4.0)
    cell = crystal()
    one, eight = model.predict([cell, cell.repeat((2, 2, 2))])["energy"]
    assert eight == pytest.approx(8 * one, abs=1e-9)


def test_frozen_points_work_and_movable_ones_are_refused():
    frozen = small(polarization="frozen")
    value = frozen.predict(molecules())["energy"]
    assert np.isfinite(value).all()
    with pytest.raises(UsageError, match="no vectors"):
        small(polarization="movable")


def test_a_lone_atom_has_an_energy():
    assert math.isfinite(small().predict([ase.Atoms("C")])["energy"][0])


def test_heads_must_divide_the_width():
    with pytest.raises(UsageError, match="5 heads do not divide 16"):
        small(heads=5)


def test_each_target_has_a_head_and_the_encoding_its_own_table_a_layer():
    model = small(targets=("a", "b"), units=("", ""))
    assert len(model.backbone.heads) == 2
    names = [name for name, _ in model.named_parameters() if name.endswith("heights")]
    assert len(names) == model.config.layers
