"""PaiNN: its formulas written out, compiled loops against them, levels that know no size."""

from __future__ import annotations

import ase
import ase.build
import pytest
import torch
from torch.nn.functional import silu

from neupol_cli import registry
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.graph import Graph

TARGETS = {"targets": ("U0", "homo", "mu", "r2"), "units": ("eV", "eV", "D", "bohr^2")}


def network(**config):
    torch.manual_seed(0)
    settings = {"hidden": 16, "layers": 3, "encoding_size": 8, **TARGETS, **config}
    return registry.build("painn", settings).double().eval()


def far_apart(one: ase.Atoms, other: ase.Atoms) -> ase.Atoms:
    moved = other.copy()
    moved.translate((50.0, 3.0, -1.0))
    return one + moved


def layer_by_hand(layer, s: torch.Tensor, v: torch.Tensor, positions: torch.Tensor):
    """One message passing step, atom by atom; s (A, H), v (A, 3, H)."""
    messages, update = layer.messages, layer.update
    ds, dv = torch.zeros_like(s), torch.zeros_like(v)
    for i in range(len(s)):
        for j in range(len(s)):
            d = positions[i] - positions[j]
            r = d.norm()
            if i == j or r >= 5.0:
                continue
            orders = torch.arange(1, 9, dtype=torch.float64)
            waves = (2 / 5.0) ** 0.5 * torch.sin(orders * torch.pi * r / 5.0) / r
            envelope = (torch.cos(torch.pi * r / 5.0) + 1) / 2
            filters = (waves @ messages.filter.weight.t() + messages.filter.bias) * envelope
            node = messages.node
            offers = node.second(silu(node.first(s[j])))
            a, b, g = (filters * offers).chunk(3)
            ds[i] += g
            dv[i] += v[j] * a + (d / r)[:, None] * b
    s, v = s + ds, v + dv
    left, right = v @ update.left.weight.t(), v @ update.right.weight.t()
    lengths = (right.square().sum(1) + 0.01).sqrt() - 0.1
    p, q, t = update.mix(torch.cat((s, lengths), 1)).chunk(3, 1)
    return s + p + q * (left * right).sum(1), v + t[:, None] * left


def test_the_network_is_the_formula_of_the_docstring():
    model, ethanol = network(), ase.build.molecule("CH3CH2OH")
    graph = Graph.from_atoms([ethanol], torch.float64)
    backbone = model.backbone
    s = backbone.embedding(backbone.types(graph.numbers))
    v = s.new_zeros(len(s), 3, 16)
    for layer in backbone.layers:
        s, v = layer_by_hand(layer, s, v, graph.positions)
    energy, level = (head.atoms(s) for head in backbone.heads[:2])
    weights = torch.softmax(level[:, 1], 0)
    expected = torch.stack((energy.sum(), (weights * level[:, 0]).sum()))
    with torch.no_grad():
        assert (model.network(graph)[0, :2] - expected).abs().max() < 1e-12


@pytest.mark.skipif(not compiler.enabled(), reason="no compiler")
def test_compiled_loops_train_as_the_formula_does(monkeypatch):
    graph = Graph.from_atoms([ase.build.molecule("C6H6"), ase.build.molecule("H2O")], torch.float32)
    steps = []
    for compiled in (True, False):
        model = network(hidden=32).float().train()
        if not compiled:
            monkeypatch.setattr(compiler, "enabled", lambda: False)
        out = model.network(graph)
        out.square().sum().backward()
        weights = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        steps.append((out.detach(), torch.cat(weights)))
    for one, other in zip(*steps, strict=True):
        assert (one - other).abs().max() <= 2e-5 * other.abs().max()


def test_energies_add_up_and_levels_do_not():
    model = network()
    water, ethane = ase.build.molecule("H2O"), ase.build.molecule("C2H6")
    pairs = [far_apart(water, water), far_apart(water, ethane)]
    found = model.predict([water, ethane, *pairs])
    energy, homo = found["U0"], found["homo"]
    assert abs(energy[2] - 2 * energy[0]) < 1e-12
    assert abs(energy[3] - energy[0] - energy[1]) < 1e-12
    assert abs(homo[2] - homo[0]) < 1e-12
    assert min(homo[:2]) - 1e-12 < homo[3] < max(homo[:2]) + 1e-12
    assert abs(homo[0] - homo[1]) > 1e-3  # or else the line above says nothing


def test_heads_are_chosen_by_the_targets():
    assert network().backbone.readouts == ("scalar", "level", "dipole", "extent")


def test_levels_of_huge_logits_are_finite():
    model, water = network(), ase.build.molecule("H2O")
    with torch.no_grad():
        model.backbone.heads[1].atoms.second.weight[1] *= 1e6
    assert abs(model.predict([water])["homo"][0]) < 100
