"""The compiled loops of atoms and probes against PyTorch's operations, and against the formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import Tensor

from neupol_cli.models.charge3net import tensor_product, tile_evaluator
from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.kernels import probe_loops
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.neighbour_loops import NeighbourLoops
from neupol_cli.models.charge3net.kernels.probe_loops import ProbeLoops
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.density.images import periodic_images
from neupol_cli.models.density.tiles import Tile, scattered_tiles
from neupol_cli.models.nn.graph import Graph
from tests.compiler import needs_compiler

pytestmark = needs_compiler
MOVING = {"polarization": "movable"}
# Of ChargE3Net's settings; the first with more channels than a vector holds, and with fewer.
SETTINGS = (
    {"mul": 200, "lmax": 4, "layers": 3},
    {"mul": 6, "lmax": 1, "layers": 1},
    {"mul": 90, "lmax": 0},
    {"mul": 70, "lmax": 6, "layers": 2},
    {"spin": True, "promolecule": 20, "layers": 2},
    {"spin": True, "pseudoscalar_spin": True, "lmax": 2, "layers": 3, **MOVING},
    {"encoding": "learned", "promolecule": 3},
    {"polarization": "late", "promolecule": 3},
    {"polarization": "frozen", "softening": 0.0},
)


def small(**options: Any) -> ChargE3Net:
    torch.manual_seed(0)
    settings = {"species": (1, 6, 8), "mul": 40, "lmax": 2, "layers": 2, "embedding": 9} | options
    network = ChargE3Net(ChargE3NetConfig(**settings)).double().eval()
    for parameter in network.motion.maps:
        torch.nn.init.normal_(parameter, std=0.3)
    for parameter in network.probes.late.parameters():
        torch.nn.init.normal_(parameter)
    if network.promolecule is not None:
        network.promolecule.coefficients[:3].normal_()
    return network


def crystal(pbc: Any = True) -> ase.Atoms:
    """A skewed cell with sides below the cutoff."""
    cell = [[2.9, 0.2, 0.0], [-0.9, 2.6, 0.3], [0.4, 0.5, 3.1]]
    places = [[0.1, 0.2, 0.3], [1.4, 1.1, 0.9], [0.7, 2.0, 2.2]]
    return ase.Atoms("COH", places, cell=cell, pbc=pbc)


STRUCTURES = {
    "molecule": molecule("CH3OH"),
    "crystal": crystal(),
    "layer": crystal((True, False, True)),
    "one atom": ase.Atoms("O", [[0.1, 0.2, 0.3]]),
    "more than a block": ase.Atoms("CO", [[0, 0, 0], [1.1, 0.3, 0.2]], cell=[2.3] * 3).repeat(
        (6, 6, 1)
    ),
}


def scatter(atoms: ase.Atoms, count: int = 300) -> Tensor:
    """Random probes around the atoms, three out of reach, and the last one at a cutoff of 4."""
    low, high = atoms.positions.min(0) - 3.0, atoms.positions.max(0) + 3.0
    box = np.random.default_rng(3).uniform(low, high, (count, 3))
    edge = atoms.positions[:1] + np.array([2.4, 3.2, 0.0])
    return torch.from_numpy(np.concatenate((box, np.full((3, 3), 90.0), edge)))


@contextmanager
def without_loops() -> Iterator[None]:
    """Tables, and PyTorch's operations."""

    def chosen(*given: Any) -> Any:
        return kernels(*given)._replace(probe_loops=None, neighbour_loops=None)

    places = tile_evaluator, tensor_product
    with patch.object(places[0], "kernels", chosen), patch.object(places[1], "kernels", chosen):
        yield


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, by the largest value."""
    assert found.shape == expected.shape and float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


def rounded(atoms: ase.Atoms) -> ase.Atoms:
    """With places that float32 holds."""
    same = atoms.copy()
    same.positions = atoms.positions.astype(np.float32)
    same.cell = atoms.cell.array.astype(np.float32)
    return same


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_densities_are_those_of_the_formulas(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], structure: str
) -> None:
    network, atoms = small(**settings).float().double(), rounded(STRUCTURES[structure])
    probes = scatter(atoms)
    double, single = network.density(atoms, probes), network.float().density(atoms, probes)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    formulas, exact = network.density(atoms, probes), network.double().density(atoms, probes)
    assert apart(double, exact) <= 1e-13
    # In float32 the formulas are not exact, either.
    assert apart(single.double(), exact) <= max(1e-6, 1.5 * apart(formulas.double(), exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_atoms_are_those_of_the_operations(settings: dict[str, Any], dtype: torch.dtype) -> None:
    network = small(**settings).to(dtype)
    graph = Graph.from_atoms([molecule("CH3OH"), crystal(False), molecule("CH4")], dtype)
    with torch.no_grad():
        serve = patch.object(NeighbourLoops, "__call__", side_effect=InterruptedError)
        with serve, pytest.raises(InterruptedError):
            network.encode(graph)
        found = network.encode(graph)
        with without_loops():
            expected = network.encode(graph)
    bound = 1e-14 if dtype == torch.float64 else 5e-6
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        for irrep, values in theirs.items():
            assert apart(ours[irrep], values) <= bound


def tile_of(network: ChargE3Net, atoms: ase.Atoms, probes: Tensor) -> tuple[ProbeLoops, Tile]:
    """The loops of a structure, and all probes as one tile."""
    features = network.atom_features(atoms)
    with torch.no_grad():
        loops = network.tile_evaluator(features, 1 << 30).kernel
    assert isinstance(loops, ProbeLoops)
    images = periodic_images(features.points, 4.0)
    (tile,) = scattered_tiles(probes, images, 4.0, 4096, 1 << 20)
    return loops, tile


@dataclass
class Counted:
    """A library that takes its own number of threads."""

    library: ctypes.CDLL
    threads: int

    def probe_sums(self, threads: object, *given: Any) -> Any:
        return self.library.probe_sums(ctypes.c_long(self.threads), *given)


def test_threads_share_out_the_probes_and_change_no_bit() -> None:
    network = small(promolecule=5).float()
    loops, tile = tile_of(network, molecule("CH3OH"), scatter(molecule("CH3OH"), 1500))
    found = []
    for threads in (1, 2, 3):
        loops.library = Counted(kernels_library(loops), threads)
        found.append(loops.of(tile))
    for other in found[1:]:
        assert torch.equal(other.probes, found[0].probes)
        assert torch.equal(other.spherical, found[0].spherical)
        for ours, theirs in zip(other.mids, found[0].mids, strict=True):
            assert torch.equal(ours.even, theirs.even)


def kernels_library(loops: ProbeLoops) -> ctypes.CDLL:
    library = loops.library
    return library.library if isinstance(library, Counted) else library


def test_rows_beyond_the_probes_are_zero() -> None:
    network = small(promolecule=5).float()
    loops, tile = tile_of(network, molecule("H2O"), scatter(molecule("H2O"), 150))
    real = torch.Tensor.new_empty

    def dirty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        return real(self, *size, **options).fill_(7)

    with patch.object(torch.Tensor, "new_empty", dirty):
        sums = loops.of(tile)
    count, rows = sums.probes.shape[0], sums.spherical.shape[0]
    assert 0 < count < rows and rows % probe_loops.ROUNDED == 0
    for part in (sums.spherical, *(mid.even for mid in sums.mids)):
        assert bool((part[count:] == 0).all()) and bool((part[:count] != 7).all())


def test_probes_that_nothing_reaches() -> None:
    network = small().float()
    corners = torch.tensor([[6.0, -6.0, 0.0], [-6.0, 6.0, 0.0]], dtype=torch.float64)
    far = network.density(molecule("H2O"), torch.cat((corners, 40 + corners)))
    assert far.tolist() == [0.0] * 4


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_of_nothing_all_layers_make_zero(settings: dict[str, Any]) -> None:
    """What ``vacuum_density`` says without a look."""
    network = small(**settings)
    with torch.no_grad():
        nothing = torch.zeros(2, network.probes.width, dtype=torch.float64)
        density = network.density_of(network.probes.by_layer(nothing), nothing[:, 0])
        features = network.atom_features(molecule("H2O"))
        vacuum = network.tile_evaluator(features, 1 << 30).vacuum_density
    assert torch.equal(density, torch.zeros_like(density))
    assert torch.equal(vacuum, density[:1])


def test_training_goes_without_loops() -> None:
    assert kernels(torch.zeros(1), 2)[2:] == (None, None)
    with torch.no_grad():
        assert None not in kernels(torch.zeros(1), 2)[2:]
        double = kernels(torch.zeros(1, dtype=torch.float64), 2)
    assert double.probe_loops is None and double.neighbour_loops is not None


def test_both_directions_of_an_edge_are_evaluated_once() -> None:
    network = small()
    graph = Graph.from_atoms([molecule("CH3OH")], torch.float64)
    each = network.neighbourhoods(graph, graph.positions)
    with torch.no_grad():
        once = network.neighbourhoods(graph, graph.positions)
    pairs = 6 * 5 // 2
    assert each.lengths.shape[0] == 2 * pairs and once.lengths.shape[0] <= pairs
    is_edge = once.harmonics[:, :, 0] > 0
    assert int(is_edge.sum()) == 2 * pairs
    for lengths in ("lengths", "basis"):
        found, expected = (getattr(n, lengths)[n.edges][is_edge] for n in (once, each))
        assert torch.equal(found, expected)
    (whole,) = once.blocks(6)
    assert whole is once
    with torch.no_grad():
        for first, block in zip((0, 4), once.blocks(4), strict=True):
            rows = slice(first, first + 4)
            assert torch.equal(block.lengths[block.edges], once.lengths[once.edges[rows]])
            assert torch.equal(block.basis[block.edges], once.basis[once.edges[rows]])
