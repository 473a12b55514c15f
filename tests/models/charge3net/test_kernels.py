"""ChargE3Net's kernels against the formulas that they stand in for."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.radial_tables import (
    TABLE_ERROR,
    step_radial,
)
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.measured_table import FEWEST_BINS


def small(**more: object) -> ChargE3Net:
    torch.manual_seed(0)
    settings = {"species": (1, 6, 8), "mul": 24, "lmax": 2, "layers": 3, "embedding": 8} | more
    return ChargE3Net(ChargE3NetConfig(**settings)).double().eval()


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


@pytest.mark.parametrize("polarization", ["off", "movable", "late"])
def test_float32_without_kernels_is_float32_with_them(
    monkeypatch: pytest.MonkeyPatch, polarization: str
) -> None:
    network = small(promolecule=4, polarization=polarization).float()
    for weights in network.probes.late.parameters():
        torch.nn.init.normal_(weights)
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
    assert kernels(single, 2) == (True, False, None, None)
    assert kernels(double, 2) == (False, False, None, None)
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    with torch.no_grad():
        assert not any(kernels(single, 2)) and not any(kernels(double, 2))
