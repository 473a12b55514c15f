"""ChargE3Net's kernels against the formulas that they stand in for."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule

from neupol_cli.models.charge3net import tensor_product
from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.irreps import Path
from neupol_cli.models.charge3net.kernels import contraction
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.radial_tables import (
    TABLE_ERROR,
    step_radial,
)
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.charge3net.tensor_product import Coupling
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.measured_table import FEWEST_BINS

PATHS = [Path((1, -1), 0, (1, -1)), Path((1, -1), 1, (0, 1)), Path((1, -1), 1, (2, 1))]


def small(**more: object) -> ChargE3Net:
    torch.manual_seed(0)
    settings = {"species": (1, 6, 8), "mul": 24, "lmax": 2, "layers": 3, "embedding": 8} | more
    return ChargE3Net(ChargE3NetConfig(**settings)).double().eval()


def operands() -> tuple[torch.Tensor, ...]:
    """Symbols, senders and weights of two atoms with three neighbours."""
    torch.manual_seed(0)
    shapes = ((2, 9, 9), (6, 3, 2), (6, 6))
    return tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)


def contracted_both(widths: list[int]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """The contraction and its gradients: the formula's, then the kernel's."""
    results = []
    for contract in (tensor_product.contracted, contraction.contracted):
        given = operands()
        out = torch.cat([part.flatten() for part in contract(*given, widths)])
        weights = torch.arange(out.numel(), dtype=torch.float64)
        results.append((out, list(torch.autograd.grad((out * weights).sum(), given))))
    return results


def test_contraction_is_the_formula_with_its_gradients() -> None:
    (expected, slopes), (found, found_slopes) = contracted_both([3, 1, 5])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    for ours, reference in zip(found_slopes, slopes, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_contraction_is_differentiable(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv("NEUPOL_KERNELS", switch)
    torch.manual_seed(0)
    coupling = Coupling((1, -1), PATHS, 1)
    harmonics = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    sent = torch.randn(6, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(coupling, (harmonics, sent, weights))


@pytest.mark.parametrize("settings", [{}, {"cutoff": 6.0, "basis_size": 60}, {"basis_size": 3}])
def test_radial_table_keeps_its_promise(settings: dict[str, object]) -> None:
    """Everywhere between the nodes, though it is measured in their middle, with few to spare."""
    network = small(mul=60, lmax=3, **settings)
    cutoff, table = network.config.cutoff, network.table.of(network.probes, network.basis).rows
    places = torch.linspace(0, cutoff, 20_011, dtype=torch.float64)
    exact = network.probes.radial(places, network.basis(places)).detach()
    wrong = TableLookup.of(places, table.shape[0] // 2, cutoff).read(table) - exact
    error = float((wrong.abs().amax(0) / exact.abs().amax(0)).max())
    assert error <= TABLE_ERROR
    assert error >= 0.5 * TABLE_ERROR or table.shape[0] == 2 * FEWEST_BINS


def test_a_learned_table_keeps_its_nodes() -> None:
    network = small(encoding="learned", bins=33)
    table = network.table.of(network.probes, network.basis).rows
    assert table.shape[0] == 2 * 33


def test_a_table_of_no_numbers_is_given_up_at_once() -> None:
    network = small()
    with torch.no_grad():
        network.probes.layers[0].radial.first[0, 0] = torch.nan
    assert network.table.of(network.probes, network.basis).rows.shape[0] == 2 * FEWEST_BINS


@pytest.mark.parametrize("encoding", ["gaussian", "learned"])
def test_a_steps_table_is_the_radial_function(encoding: str) -> None:
    network = small(encoding=encoding)
    lengths = torch.rand(200, dtype=torch.float64) * 4.0
    is_edge = torch.arange(200) % 3 > 0
    expected = network.radial(lengths, is_edge)
    found = step_radial(network.probes, network.basis, lengths, is_edge)
    assert bool((found[~is_edge] == 0).all())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("polarization", ["off", "movable"])
def test_float32_without_kernels_is_float32_with_them(
    monkeypatch: pytest.MonkeyPatch, polarization: str
) -> None:
    network = small(promolecule=4, polarization=polarization).float()
    graph = Graph.from_atoms([molecule("CH3OH")], torch.float32)
    probes = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(1))
    densities, tables = [], []
    for switch in ("1", "0"):
        monkeypatch.setenv("NEUPOL_KERNELS", switch)
        features = network.atom_features(molecule("CH3OH"))
        tables.append(features.table is not None)
        densities += [network(graph, probes).detach(), network.density(features, probes[0])]
    assert tables == [True, False]
    for density in densities:
        assert density.dtype == torch.float32
        scale = float(densities[0].abs().max())
        torch.testing.assert_close(density, densities[0], rtol=0, atol=1e-5 * scale)


def test_the_choice_is_by_type_and_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert kernels(single, 2) == (True, True, False, None, None)
    assert kernels(double, 2) == (True, False, False, None, None)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    with torch.no_grad():
        assert not any(kernels(single, 2)) and not any(kernels(double, 2))
