"""Descriptors of densities whose derivatives are known, and of a network against differences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io.cube import read_cube_data
from torch import Tensor, nn

from neupol_cli import app, registry
from neupol_cli.density import derivatives as derivatives_module
from neupol_cli.density import descriptor
from neupol_cli.density.derivatives import Field, derivatives
from neupol_cli.density.descriptor import dori, iri
from neupol_cli.errors import TemporaryError, UsageError
from neupol_cli.io import volumetric as files
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid, Volume
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.nn.graph import Graph

ALPHA = 1.3


@dataclass(frozen=True)
class Points:
    """All that the probes of a Gaussian read."""

    points: Graph


class Gaussian(DensityModel):
    """rho = exp(-alpha r^2) around every atom, and nothing beyond 5 Angstrom."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(ALPHA, dtype=torch.float64))
        self.config: Any = SimpleNamespace(species=(1, 8), cutoff=5.0)
        self.meta = {"model": "charge3net"}

    def encode(self, graph: Graph) -> Points:
        return Points(graph)

    def atom_features(self, atoms: Atoms) -> Points:
        return self.encode(Graph.from_atoms([atoms], torch.float64))

    def tile_evaluator(self, features: Points, memory: int) -> Any:
        return SimpleNamespace(vacuum_density=torch.zeros(1))

    def forward(self, graph: Graph, probes: Tensor) -> Tensor:
        return self.at(self.encode(graph), probes)

    def at(self, features: Points, probes: Tensor) -> Tensor:
        positions = features.points.positions
        squared = ((probes[0][:, None] - positions[None]) ** 2).sum(2)
        if bool((squared > 25).all()):
            return torch.zeros(len(squared), dtype=torch.float64)
        return torch.exp(-self.alpha * squared).sum(1)


def around(count: int = 40, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3)) * scale


def test_derivatives_of_a_gaussian_are_exact() -> None:
    points = around()
    density, slope, hessian = derivatives(Gaussian(), Atoms("O", [[0, 0, 0]]), points)
    expected = np.exp(-ALPHA * (points**2).sum(1))
    np.testing.assert_allclose(density, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(slope, -2 * ALPHA * points * expected[:, None], rtol=0, atol=1e-14)
    outer = 4 * ALPHA**2 * points[:, :, None] * points[:, None, :]
    exact = (outer - 2 * ALPHA * np.eye(3)) * expected[:, None, None]
    np.testing.assert_allclose(hessian, exact, rtol=0, atol=1e-13)


def test_iri_and_dori_of_a_gaussian_and_of_an_exponential() -> None:
    points = around()
    radius = np.linalg.norm(points, axis=1)
    found = derivatives(Gaussian(), Atoms("O", [[0, 0, 0]]), points)
    # theta = 4 a^2 r^2, so that phi = 1 / (a^2 r^4)
    np.testing.assert_allclose(dori(*found), 1 / (1 + ALPHA**2 * radius**4), rtol=0, atol=1e-12)
    expected = 2 * ALPHA * radius * found[0] ** -0.1 * BOHR**0.7
    np.testing.assert_allclose(iri(*found[:2]), expected, rtol=0, atol=1e-12)
    # exp(-r) has the same relative slope everywhere: nothing overlaps
    density = np.exp(-radius)
    slope = -points / radius[:, None] * density[:, None]
    unit = points / radius[:, None]
    outer = unit[:, :, None] * unit[:, None, :]
    hessian = (outer - (np.eye(3) - outer) / radius[:, None, None]) * density[:, None, None]
    np.testing.assert_allclose(dori(density, slope, hessian), 0, rtol=0, atol=1e-12)
    nothing = dori(np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3, 3)))
    np.testing.assert_array_equal(nothing, 0)


def test_where_no_atom_reaches_there_is_no_slope() -> None:
    found = derivatives(Gaussian(), Atoms("O", [[0, 0, 0]]), around() + 50.0)
    for values in found:
        np.testing.assert_array_equal(values, 0)
    for name in ("iri", "dori"):
        (values,) = descriptor.columns(name, *found)
        np.testing.assert_array_equal(values, descriptor.DESCRIPTORS[name][1])


def test_a_networks_derivatives_equal_differences() -> None:
    torch.manual_seed(1)
    config = {"species": (1, 6, 8), "mul": 24, "lmax": 2, "layers": 2, "hidden": 16}
    network = registry.build("charge3net", config).double().eval()
    atoms = Atoms("COH", [[0, 0, 0], [1.2, 0.1, 0], [1.6, 0.9, 0.2]])
    points = around(30, 0.8) + 0.4
    density, slope, hessian = derivatives(network, atoms, points)
    features = network.atom_features(atoms)

    def value(moved: np.ndarray) -> np.ndarray:
        return network.density(features, torch.from_numpy(moved)).numpy()

    np.testing.assert_allclose(density, value(points), rtol=0, atol=1e-12)
    step = 1e-3
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        plus, minus = value(points + shift), value(points - shift)
        two, back = value(points + 2 * shift), value(points - 2 * shift)
        first = (8 * (plus - minus) - (two - back)) / (12 * step)
        second = (16 * (plus + minus) - (two + back) - 30 * density) / (12 * step**2)
        scale = max(np.abs(slope).max(), np.abs(hessian).max())
        np.testing.assert_allclose(slope[:, axis], first, rtol=0, atol=1e-6 * scale)
        np.testing.assert_allclose(hessian[:, axis, axis], second, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(hessian, hessian.transpose(0, 2, 1), rtol=0, atol=1e-12)


def test_the_command_writes_fields_as_they_are(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("h2.xyz").write_text("2\n\nH 0 0 0\nH 0 0 2.2\n")
    monkeypatch.setattr(registry, "load", lambda *arguments: Gaussian())
    call = ["h2.xyz", "-m", "stand-in", "--spacing", "0.5", "--margin", "2"]

    def describe(name: str, output: str) -> int:
        return app._run(["density-descriptor", name, *call, "-o", output])

    assert describe("dori", "dori.cube") == 0
    found = read_cube_data("dori.cube")[0]  # ours reads densities only
    assert found.min() >= 0 and found.max() <= 1
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 2.2]])
    points = files.by_spacing(atoms, 0.5, 2.0).points()
    density, slope, hessian = derivatives(Gaussian(), atoms, points)
    expected = np.where(density > descriptor.VACUUM, dori(density, slope, hessian), 0)
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=0, atol=1e-6)
    assert describe("hessian", "h_{}.cube") == 0
    assert sorted(path.name for path in tmp_path.glob("h_*.cube")) == [
        f"h_{part}.cube" for part in sorted(descriptor.TENSOR)
    ]
    zz = read_cube_data("h_zz.cube")[0].reshape(-1)
    np.testing.assert_allclose(zz, hessian[:, 2, 2], rtol=0, atol=1e-6)
    capsys.readouterr()
    for name, output, says in (
        ("iri", "rho.h5", "holds no descriptor; the name must end in .cube, .xsf or .npz"),
        ("hessian", "h.cube", "put {} in the name"),
        ("nci", "a.cube", "one of iri, dori"),
    ):
        assert describe(name, output) == 2
        assert says in capsys.readouterr().err


# Small networks: every way in which probes read their atoms, and one whose atoms have more points.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "charge3net": ("charge3net", {"mul": 24, "lmax": 2, "layers": 2, "hidden": 16}),
    "spin": ("charge3net", {"mul": 12, "lmax": 1, "layers": 2, "hidden": 16, "spin": True}),
    "movable": (
        "charge3net",
        {"mul": 12, "lmax": 1, "layers": 2, "hidden": 16, "polarization": "movable"},
    ),
    "late": (
        "charge3net",
        {"mul": 12, "lmax": 1, "layers": 2, "hidden": 16, "polarization": "late"},
    ),
    "schnet": ("deepdft-schnet", {"hidden": 8, "layers": 2}),
    "painn": ("deepdft-painn", {"hidden": 8, "layers": 2}),
}
COH = Atoms("COH", [[0, 0, 0], [1.2, 0.1, 0], [1.6, 0.9, 0.2]])
# Two of them, further apart than atoms reach, and a cell much smaller than that.
APART = COH + Atoms("COH", COH.positions + np.array([14.0, 0, 0]))
CELL = Atoms(COH, cell=[[3.1, 0, 0], [0.4, 2.9, 0], [0, 0.3, 2.7]], pbc=True)


def network(name: str = "charge3net") -> Any:
    torch.manual_seed(1)
    kind, settings = NETWORKS[name]
    built = registry.build(kind, {"species": (1, 6, 8), **settings}).double().eval()
    for weights in built.motion.maps if kind == "charge3net" else ():
        nn.init.normal_(weights, std=0.1)
    for weights in built.probes.late.parameters() if name == "late" else ():
        nn.init.normal_(weights)
    return built.requires_grad_(False)


def grid_of(atoms: Atoms, spacing: float = 1.1) -> Grid:
    return files.by_spacing(atoms, spacing, 2.5)


def filled(field: Field, grid: Grid) -> list[np.ndarray]:
    """Density, gradient and Hessian at all points of a grid, block by block."""
    found = [each.repeat(grid.size, 0) for each in field.empty]
    for _, rows, values in field.blocks(grid):
        for all_values, some in zip(found, values, strict=True):
            all_values[rows] = some
    return found


@pytest.mark.parametrize("atoms", [APART, CELL], ids=["apart", "cell"])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_of_a_grid_are_all_points_at_once(monkeypatch, name: str, atoms: Atoms) -> None:
    monkeypatch.setitem(derivatives_module.POINTS, "cpu", 48)
    model, grid = network(name), grid_of(atoms, 1.4 if atoms is APART else 0.9)
    expected = derivatives(model, atoms, grid.points())
    for memory in (1, 1 << 30) if atoms is CELL and name == "spin" else (1 << 30,):
        for ours, theirs in zip(filled(Field(model, atoms, memory), grid), expected, strict=True):
            assert np.ptp(theirs) > 1e-6
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.abs(theirs).max())


def test_slopes_alone_are_the_same_without_hessians(monkeypatch) -> None:
    """IRI reads no second derivative, and none is computed for it."""
    model, grid, known, requested = network(), grid_of(COH), derivatives_module._gradient, []
    density, slope, _ = derivatives(model, COH, grid.points())
    inside = density > descriptor.VACUUM
    expected = np.where(inside, iri(density, slope), descriptor.DESCRIPTORS["iri"][1])

    def noted(value: Tensor, probes: Tensor, more: bool) -> Tensor:
        requested.append(more)
        return known(value, probes, more)

    monkeypatch.setattr(derivatives_module, "_gradient", noted)
    (found,) = descriptor.on_grid("iri", model, COH, grid, 1 << 30, lambda done: None)
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-6, atol=1e-9)
    assert requested and not any(requested)


def test_atoms_are_encoded_once_and_read_where_they_reach(monkeypatch) -> None:
    model, grid, told = network(), grid_of(APART), []
    encode, at, counts = type(model).encode, type(model).at, []

    def counted(self: Any, graph: Graph) -> Any:
        counts.append(graph.numbers.shape[0])
        return encode(self, graph)

    def noted(self: Any, features: Any, probes: Tensor) -> Any:
        read.append(features.points.numbers.shape[0])
        return at(self, features, probes)

    read: list[int] = []
    monkeypatch.setattr(type(model), "encode", counted)
    monkeypatch.setattr(type(model), "at", noted)
    descriptor.on_grid("laplacian", model, APART, grid, 1 << 30, told.append)
    assert counts == [6] and len(read) > 3 and max(read) == 3
    assert told == sorted(told) and told[-1] == grid.size


@pytest.mark.parametrize("atoms", [APART, CELL], ids=["apart", "cell"])
@pytest.mark.parametrize("name", ["charge3net", "painn"])
def test_blocks_keep_within_the_memory(monkeypatch, name: str, atoms: Atoms) -> None:
    """What is kept for second derivatives is most of what they need."""
    model, grid, memory = network(name), grid_of(atoms), 4 << 20
    known, taken = derivatives_module._derivatives, []

    def counted(*given: Any) -> Any:
        held = [0]

        def note(tensor: Tensor) -> Tensor:
            held[0] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = known(*given)
        taken.append(held[0])
        return found

    field = Field(model, atoms, memory)
    monkeypatch.setattr(derivatives_module, "_derivatives", counted)
    filled(field, grid)
    assert 0.2 * memory < max(taken) < 1.2 * memory and len(taken) > 5


def test_out_of_memory_blocks_are_halved_and_stay_so(monkeypatch) -> None:
    model, grid, refused = network(), grid_of(COH), []
    expected = descriptor.on_grid("hessian", model, COH, grid, 1 << 30, lambda done: None)
    at, most = type(model).at, 20
    monkeypatch.setattr(Field, "_slot", lambda self: 1 << 20)  # bytes

    def limited(self: Any, features: Any, probes: Tensor) -> Tensor:
        if probes.shape[1] > most:
            refused.append(probes.shape[1])
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return at(self, features, probes)

    monkeypatch.setattr(type(model), "at", limited)
    found = descriptor.on_grid("hessian", model, COH, grid, 1 << 30, lambda done: None)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert 0 < len(refused) < 12  # once and for all, not once a block
    most = 0
    with pytest.raises(TemporaryError, match="out of memory"):
        descriptor.on_grid("hessian", model, COH, grid, 1 << 30, lambda done: None)


def test_only_densities_go_into_files_of_densities(tmp_path: Path) -> None:
    grid = Grid([0, 0, 0], np.eye(3), (2, 2, 2))
    volume = Volume(Atoms("H"), grid, np.ones(grid.shape), unit="1")
    with pytest.raises(UsageError, match="holds densities only"):
        files.write(tmp_path / "CHGCAR", volume, "t")


@pytest.mark.parametrize("network", ["painn", "schnet"])
@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_dori_equals_that_of_the_published_implementation(network: str, structure: str) -> None:
    """DeepDFT's density, gradient, Hessian and DORI at 150 probes, as its own code gives them."""
    found = np.load(Path(__file__).parents[1] / "data" / "parity" / "deepdft_dori.npz")
    names = ("density", "density_gradient", "density_hessian", "dori")
    density, slope, hessian, expected = (found[f"{network}/{structure}/{n}"] for n in names)
    ours = dori(density, slope, hessian)
    known = np.isfinite(expected)  # theirs is 0/0 on a nucleus and where no atom is near
    np.testing.assert_allclose(ours[known], expected[known], rtol=0, atol=1e-13)
    assert known.sum() > 120 and (ours[~known] == 0).all()
