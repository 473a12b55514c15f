"""DeepDFT's probes in float32: tables, compiled loops, probes that no atom reaches, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from neupol_cli import app, checkpoint, registry
from neupol_cli.density.derivatives import derivatives
from neupol_cli.density.descriptor import TENSOR, dori, iri
from neupol_cli.errors import CheckpointError
from neupol_cli.models.deepdft.kernels import probe_sums as probe_sums_module
from neupol_cli.models.deepdft.kernels.choice import Kernels, kernels
from neupol_cli.models.deepdft.kernels.filter_table import ERROR, filter_table
from neupol_cli.models.deepdft.kernels.messages import compiled_messages, library
from neupol_cli.models.deepdft.kernels.probe_edges import ProbeEdges
from neupol_cli.models.deepdft.kernels.probe_sums import CompiledProbeSums, ProbeSums, probe_sums
from neupol_cli.models.deepdft.messages import Ends, summed_messages
from neupol_cli.models.density.images import periodic_images
from neupol_cli.models.density.tiles import scattered_tiles
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.hermite import TableLookup
from tests.compiler import needs_compiler

NETWORKS = ("schnet", "painn")
WATER = ase.Atoms("OH2", [[0, 0, 0.1], [0, 0.76, -0.48], [0, -0.76, -0.48]])


def published(parity, name: str) -> Any:
    return parity(f"deepdft_{name}").model(f"deepdft-{name}")


def random_model(name: str, hidden: int = 16, **config: Any) -> Any:
    torch.manual_seed(3)
    settings = {"hidden": hidden, "layers": 2, **config}
    return registry.build(f"deepdft-{name}", settings).eval()


def without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: tables, and PyTorch's operations."""
    monkeypatch.setattr(probe_sums_module, "kernels", lambda *_: Kernels(True, None))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_table_is_the_filter_within_its_bound(parity, name: str) -> None:
    model = published(parity, name)
    function, cutoff = model.filters, model.config.cutoff
    table = filter_table(function, cutoff)
    places = torch.linspace(0, cutoff, 20_011, dtype=torch.float64)
    exact = function(places).detach()
    wrong = (TableLookup.of(places, table.shape[0] // 2, cutoff).read(table) - exact).abs().amax(0)
    assert 0.5 * ERROR < float((wrong / exact.abs().amax(0)).max()) <= ERROR
    assert filter_table(function, cutoff, 1e-3).shape[0] < table.shape[0]


@pytest.mark.parametrize("kind", ["compiled", "operations", "formulas"])
@pytest.mark.parametrize("structure", ["molecule", "crystal"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_the_published_density(
    parity, monkeypatch, name: str, structure: str, kind: str
) -> None:
    if kind == "operations":
        without_loops(monkeypatch)
    if kind == "formulas":
        monkeypatch.setenv("NEUPOL_KERNELS", "0")
    values = parity(f"deepdft_{name}")
    keys = ("numbers", "positions", "cell", "pbc")
    atoms = ase.Atoms(**{key: values[f"{structure}/{key}"] for key in keys})
    model = values.model(f"deepdft-{name}").float()
    features = model.atom_features(atoms)
    assert (features.evaluator is None) == (kind == "formulas")
    expected = values[f"{structure}/density"]
    probes = values[f"{structure}/probes"]
    if kind == "formulas":  # on an atom, float32's rounding of its place has some direction
        apart = np.linalg.norm(probes[:, None] - atoms.positions, axis=2).min(1) > 1e-3
        probes, expected = probes[apart], expected[apart]
    for memory in (1, 1 << 30):
        found = model.density(features, torch.from_numpy(probes), memory)
        # Processors add in different orders: 3.3e-6 was seen on one, where another had less.
        bound = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def reached(model: Any, probes: torch.Tensor) -> tuple[Any, ProbeEdges]:
    features = model.atom_features(WATER)
    images = periodic_images(features.points, 4.0)
    (tile,) = scattered_tiles(probes.double(), images, 4.0, 4096, 1 << 20)
    return features, ProbeEdges.of(tile, torch.float32)


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_loops_are_pytorchs_operations(monkeypatch, name: str) -> None:
    model = random_model(name, hidden=32)
    features, edges = reached(model, torch.randn(150, 3) * 3.0)
    table = model.tables()[0]
    lookup = TableLookup.of(edges.lengths, table.shape[0] // 2, 4.0)
    assert type(probe_sums(edges, lookup, table, 32)) is CompiledProbeSums
    assert type(probe_sums(edges, lookup, table, 24)) is ProbeSums
    one = features.evaluator.density(edges)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    assert type(probe_sums(edges, lookup, table, 32)) is ProbeSums
    other = features.evaluator.density(edges)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert edges.size % 64 == 0 and len(edges.probes) < 150


class Counted:
    """A library of loops that notes how many threads each was called with."""

    def __init__(self, library: Any) -> None:
        self.library, self.threads = library, {}

    def __getattr__(self, name: str) -> Any:
        def call(threads: Any, *given: Any) -> None:
            self.threads[name] = threads.value
            getattr(self.library, name)(threads, *given)

        return call


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_threads_share_out_the_points_and_change_no_bit(monkeypatch, name: str) -> None:
    model = random_model(name, hidden=32, layers=3)
    features, edges = reached(model, torch.randn(700, 3) * 2.0)
    library, found = kernels(torch.zeros(1), 32).library, []
    for threads in (1, 2, 3):
        counted = Counted(library)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        chosen = Kernels(True, counted)
        monkeypatch.setattr(probe_sums_module, "kernels", lambda *_, given=chosen: given)
        found.append(features.evaluator.density(edges))
        assert set(counted.threads.values()) == {threads}
        assert len(counted.threads) == {"painn": 4, "schnet": 3}[name]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_where_no_atom_reaches_there_is_one_constant(name: str) -> None:
    model = random_model(name)
    features = model.atom_features(WATER)
    probes = torch.cat((torch.rand(40, 3) * 2 - 1, torch.randn(40, 3) + 60.0)).double()
    found = model.density(features, probes)
    assert (found[40:] == found[40]).all() and not (found[:40] == found[40]).any()
    alone = model.density(features, probes[40:])
    assert torch.equal(alone, found[40:])
    assert model.density(features, torch.zeros(0, 3)).shape == (0,)
    single = model.density(features, torch.zeros(1, 3))
    exact = model.double().density(model.atom_features(WATER), torch.zeros(1, 3))
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_follow_the_weights(name: str) -> None:
    model = random_model(name)
    before = model.tables()
    assert model.tables() is before
    with torch.no_grad():
        model.probe_layers[0].messages.get_parameter(
            {"painn": "filter.weight", "schnet": "edge.second.weight"}[name]
        ).mul_(2.0)
    after = model.tables()
    assert after is not before and not torch.equal(after[0], before[0])
    assert torch.equal(after[1][0], before[1][0])  # the number of nodes is for all layers
    assert "_tables" not in model.state_dict()
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.Adam(weights, lr=1e-2, fused=True).step()
    assert not torch.equal(model.tables()[1], after[1])
    assert model.tables() is model.tables()


FORMS = {
    "authors": lambda w: {"model": w, "step": 7, "best_val_mae": 0.1, "optimizer": {}},
    "lightning": lambda w: {"state_dict": {f"network.{k}": v for k, v in w.items()}},
    "bare": lambda w: w,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_published_checkpoints_are_recognised(parity, tmp_path: Path, name: str, form: str) -> None:
    values = parity(f"deepdft_{name}")
    weights = {key: torch.from_numpy(value) for key, value in values.weights.items()}
    path = tmp_path / "best_model.pth"
    torch.save(FORMS[form](weights), path)
    model = registry.load(str(path))
    assert model.header["model"] == f"deepdft-{name}" and model.config.cutoff == 4.0
    atoms = ase.Atoms(values["molecule/numbers"], values["molecule/positions"])
    found = model.density(model.atom_features(atoms), torch.from_numpy(values["molecule/probes"]))
    np.testing.assert_allclose(found, values["molecule/density"], rtol=0, atol=1e-10)


def test_half_a_checkpoint_is_none(parity, tmp_path: Path) -> None:
    weights = {k: torch.from_numpy(v) for k, v in parity("deepdft_painn").weights.items()}
    path = tmp_path / "half.pth"
    torch.save({k: v for k, v in weights.items() if "probe_model" not in k}, path)
    with pytest.raises(CheckpointError, match="not a published checkpoint"):
        registry.load(str(path))
    del weights["probe_model.readout_function.2.bias"]
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="readout"):
        registry.load(str(path))


@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_equal_differences(name: str) -> None:
    model = random_model(name).double()
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (20, 3))  # no atom enters or leaves
    density, slope, hessian = derivatives(model, WATER, points)
    features, step = model.atom_features(WATER), 2e-4

    def value(shift: np.ndarray) -> np.ndarray:
        return model.density(features, torch.from_numpy(points + shift)).numpy()

    np.testing.assert_allclose(density, value(np.zeros(3)), rtol=0, atol=1e-12)
    scale = max(np.abs(slope).max(), np.abs(hessian).max())
    for axis in range(3):
        one = step * np.eye(3)[axis]
        plus, minus, two, back = (value(k * one) for k in (1, -1, 2, -2))
        first = (8 * (plus - minus) - (two - back)) / (12 * step)
        second = (16 * (plus + minus) - (two + back) - 30 * density) / (12 * step**2)
        np.testing.assert_allclose(slope[:, axis], first, rtol=0, atol=1e-7 * scale)
        np.testing.assert_allclose(hessian[:, axis, axis], second, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(hessian, hessian.transpose(0, 2, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("structure", ["molecule", "crystal"])
@pytest.mark.parametrize("name", NETWORKS)
def test_descriptors_from_a_structure_are_the_published_ones(
    parity, name: str, structure: str
) -> None:
    """phi / (1 + phi), phi = |grad |grad rho / rho|^2|^2 / |grad rho / rho|^6."""
    values = parity(f"deepdft_{name}")
    keys = ("numbers", "positions", "cell", "pbc")
    atoms = ase.Atoms(**{key: values[f"{structure}/{key}"] for key in keys})
    found = derivatives(values.model(f"deepdft-{name}"), atoms, values[f"{structure}/probes"])
    stored = np.load(Path(__file__).parents[2] / "data" / "parity" / "deepdft_dori.npz")
    known = np.isfinite(stored[f"{name}/{structure}/dori"])
    expected = stored[f"{name}/{structure}/dori"][known]
    np.testing.assert_allclose(dori(*found)[known], expected, rtol=0, atol=1e-8)
    density, slope = found[0][known], found[1][known]
    with np.errstate(invalid="ignore"):
        plain = np.linalg.norm(slope, axis=1) / density**1.1  # as published, not in atomic units
    positive = density > 0
    own = iri(density[positive], slope[positive]) / iri(np.ones(1), np.eye(3)[:1])
    np.testing.assert_allclose(own, plain[positive], rtol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_command_draws_densities_and_descriptors(monkeypatch, tmp_path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save(Path("m.safetensors"), f"deepdft-{name}", random_model(name), {"targets": {}})
    WATER.write("w.xyz")
    call = ["w.xyz", "-m", "m.safetensors", "--spacing", "0.8", "-o"]
    assert app._run(["density", *call, "rho.cube"]) == 0
    for file, descriptor in (("d.cube", "dori"), ("i.cube", "iri"), ("h_{}.cube", "hessian")):
        assert app._run(["density-descriptor", descriptor, *call, file]) == 0
    made = {each.name for each in tmp_path.glob("*.cube")}
    tensor = {f"h_{part}.cube" for part in TENSOR}
    assert made == {"rho.cube", "d.cube", "i.cube"} | tensor


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_in_float32_has_the_gradient_of_float64(name: str) -> None:
    """Enough edges for tables and loops; float64 evaluates every function at every edge."""
    model, found = random_model(name), {}
    graph = Graph.from_atoms([WATER] * 2, torch.float64)
    probes = 2 * torch.rand(2, 600, 3, dtype=torch.float64) - 1
    for dtype in (torch.float64, torch.float32):
        model.to(dtype).zero_grad()
        density = model(graph.at(graph.positions.to(dtype)), probes.to(dtype))
        (density * torch.linspace(0, 1, 1200, dtype=dtype)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[dtype] = (density.detach().double(), gradient.double())
    for exact, single in zip(*found.values(), strict=True):
        assert (exact - single).abs().max() <= 1e-4 * exact.abs().max()


@pytest.mark.parametrize("name", ["painn", "schnet"])
def test_kernels_of_training_can_be_switched_off(monkeypatch, name: str) -> None:
    """A step with tables and loops is a step with the formulas, to float32's precision."""
    model = random_model(name, hidden=32)
    graph = Graph.from_atoms([WATER] * 2, torch.float32)
    probes = 2 * torch.rand(2, 600, 3) - 1
    steps = []
    for switch in ("1", "0"):
        monkeypatch.setenv("NEUPOL_KERNELS", switch)
        assert kernels(torch.zeros(1), 32).tables == (switch == "1")
        assert switch == "1" or library(torch.zeros(1), 32) is None
        model.zero_grad()
        density = model(graph, probes)
        density.square().sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        steps.append((density.detach(), torch.cat(gradients)))
    for one, other in zip(*steps, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


@needs_compiler
@pytest.mark.parametrize(("threads", "mutual"), [(1, 0), (1, 200), (2, 0), (2, 300), (3, 200)])
def test_compiled_messages_are_those_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, threads: int, mutual: int
) -> None:
    torch.manual_seed(0)
    pairs = torch.stack((torch.randint(5, (300,)), torch.randint(40, (300,))), 1)
    senders, receivers = pairs.unbind(1)  # columns, which do not lie one behind the other
    directions, basis, weight, offers, weights = (
        torch.randn(shape, dtype=torch.float64)
        for shape in ((300, 3), (300, 7), (96, 7), (41, 5, 32), (41, 4, 32))
    )
    ends = Ends(senders, receivers, directions, 41, mutual)  # the last has no edge
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    loops = library(offers, 32)
    assert loops is not None

    def formula(basis: Tensor, weight: Tensor, offers: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
        return summed_messages(basis @ weight.t(), offers, ends)

    found = []
    for function in (partial(compiled_messages, loops=loops), formula):
        given = [each.clone().requires_grad_() for each in (basis, weight, offers, directions)]
        ds, dv = function(*given[:3], replace(ends, directions=given[3]))
        out = torch.cat((ds[:, None], dv), 1)
        loss = (out * weights).mean()
        first = torch.autograd.grad(loss, given, retain_graph=True)
        recorded = torch.autograd.grad(loss, given, create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in recorded), given)
        found.append((out, *first, *recorded, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert not found[0][0][40].any()
