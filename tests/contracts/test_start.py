"""Training goes on from trained weights: what is known stays to the bit, the rest is random."""

from __future__ import annotations

import dataclasses
from typing import Any

import ase
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.models.nn.graph import Graph
from neupol_cli.training.parts import freeze, parameters_of
from neupol_cli.training.start import Start, take_over
from tests.contracts.conftest import DENSITIES, SMALL, SMALL_DENSITIES, Case, DensityCase

TWO: dict[str, Any] = {"units": ("eV", "eV"), "species": (1, 6, 8)}
NETWORKS = {**SMALL, **SMALL_DENSITIES}


def start_of(name: str, model: Any) -> Start:
    return Start("it", "", name, dataclasses.asdict(model.config), dict(model.state_dict()))


def of_known_elements(molecules: list[ase.Atoms]) -> Graph:
    for molecule in molecules:
        molecule.numbers[(molecule.numbers == 7) | (molecule.numbers == 9)] = 8
    return Graph.from_atoms(molecules, torch.float64)


def test_targets_and_elements_are_found_by_name(mode: Case, molecules: list[ase.Atoms]) -> None:
    old = mode.build(targets=("U0", "gap"), **TWO)
    torch.manual_seed(5)
    more = TWO | {"species": (1, 6, 7, 8, 9), "targets": ("homo", "U0")}
    new = registry.build(mode.name, SMALL[mode.name] | {"polarization": mode.mode} | more).double()
    before = {name: value.clone() for name, value in new.state_dict().items()}
    take_over(new, start_of(mode.name, old))
    graph = of_known_elements(molecules)
    with torch.no_grad():
        theirs, ours = old.network(graph), new.eval().network(graph)
    torch.testing.assert_close(ours[:, 1], theirs[:, 0], rtol=0, atol=1e-12)
    fresh = [k for k in before if "heads.0." in k]
    assert (fresh or mode.name == "dimenet") and all(
        torch.equal(new.state_dict()[k], before[k]) for k in fresh
    )


def test_new_elements_begin_as_those_above_them(mode: Case, molecules: list[ase.Atoms]) -> None:
    if mode.name == "egnn":
        pytest.skip("reads powers of the atomic number, too")
    old = mode.build(targets=("U0", "gap"), **TWO)
    more = dataclasses.asdict(old.config) | {"species": (1, 6, 8, 14, 16)}
    new = registry.build(mode.name, more).double()
    take_over(new, start_of(mode.name, old))
    graph = of_known_elements(molecules)
    heavier = {6: 14, 8: 16}
    numbers = torch.tensor([heavier.get(int(number), int(number)) for number in graph.numbers])
    with torch.no_grad():
        ours = new.eval().network(dataclasses.replace(graph, numbers=numbers))
        torch.testing.assert_close(ours, old.network(graph), rtol=0, atol=1e-12)


def test_the_same_targets_are_answered_alike(mode: Case, molecules: list[ase.Atoms]) -> None:
    old = mode.build(targets=("U0", "gap"), **TWO)
    new = registry.build(mode.name, dataclasses.asdict(old.config)).double()
    take_over(new, start_of(mode.name, old))
    graph = of_known_elements(molecules)
    with torch.no_grad():
        torch.testing.assert_close(new.eval().network(graph), old.network(graph), rtol=0, atol=0)


def test_densities_are_answered_alike(density_case: DensityCase, crystal: ase.Atoms) -> None:
    old = density_case.build()
    new = registry.build(density_case.name, dataclasses.asdict(old.config)).double().eval()
    take_over(new, start_of(density_case.name, old))
    probes = torch.tensor([[0.3, 0.2, 0.1], [1.0, 2.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        new.density(crystal, probes), old.density(crystal, probes), rtol=0, atol=0
    )


@pytest.mark.parametrize("promolecule", [0, 4])
def test_spin_begins_anew_beside_a_density_that_had_none(
    promolecule: int, crystal: ase.Atoms
) -> None:
    plain = SMALL_DENSITIES["charge3net"] | {"spin": False, "promolecule": promolecule}
    old = registry.build("charge3net", plain).double().eval()
    new = registry.build("charge3net", plain | {"spin": True}).double().eval()
    before = dict(new.named_parameters())["readout.weight"].detach().clone()
    take_over(new, start_of("charge3net", old))
    probes = torch.tensor([[0.3, 0.2, 0.1], [1.0, 2.0, 0.5]], dtype=torch.float64)
    found = new.density(crystal, probes)
    torch.testing.assert_close(found[:, 0], old.density(crystal, probes), rtol=0, atol=1e-12)
    assert found.abs().min() > 0
    after = dict(new.named_parameters())["readout.weight"]
    torch.testing.assert_close(after.view(-1, 2)[:, 1], before.view(-1, 2)[:, 1], rtol=0, atol=0)


def test_a_density_with_spin_is_none_without(crystal: ase.Atoms) -> None:
    plain = SMALL_DENSITIES["charge3net"] | {"spin": False}
    old = registry.build("charge3net", plain | {"spin": True})
    with pytest.raises(UsageError, match=r"with these settings its readout\.weight is"):
        take_over(registry.build("charge3net", plain), start_of("charge3net", old))


@pytest.mark.parametrize("name", [*SMALL, *DENSITIES])
def test_a_network_says_where_its_elements_are(name: str) -> None:
    """Which shapes depend on how many there are; a network with none of them takes no new ones."""

    def shapes(species: tuple[int, ...]) -> dict[str, torch.Size]:
        model = registry.build(name, NETWORKS[name] | {"species": species})
        return {key.removeprefix("backbone."): v.shape for key, v in model.state_dict().items()}

    few, many = shapes((1, 6)), shapes((1, 6, 7, 8))
    differ = {key for key in few if few[key] != many[key]} - {"reference"}
    network = registry.entry(name).load()
    assert set(network.by_element) == (differ if name != "charge3net" else set())
    for key, axis in network.by_element.items():
        assert 2 * few[key][axis] == many[key][axis]
    start = start_of(name, registry.build(name, NETWORKS[name] | {"species": (1, 6)}))
    if network.by_element:
        assert start.settings((1, 8))["species"] == [1, 6, 8]
    else:
        with pytest.raises(InputError, match=r"no place for elements \[8\]"):
            start.settings((1, 8))


def test_elements_in_other_places_are_refused_where_nobody_can_tell(crystal: ase.Atoms) -> None:
    old = DensityCase("charge3net", 0).build()
    other = dataclasses.asdict(old.config) | {"species": (1, 5, 6, 8, 9)}
    with pytest.raises(UsageError, match=r"its elements \[7\] have no place"):
        take_over(registry.build("charge3net", other), start_of("charge3net", old))
    more = dataclasses.asdict(old.config) | {"species": (1, 5, 6, 7, 8, 9)}
    with pytest.raises(UsageError, match="--from it: with these settings its elements are"):
        take_over(registry.build("charge3net", more), start_of("charge3net", old))


@pytest.mark.parametrize(
    "setting",
    [{"species": (1, 6)}, {"hidden": 16}, {"charge_power": 1}, {"polarization": "frozen"}],
)
def test_settings_and_elements_that_change_together_are_refused(setting: dict[str, Any]) -> None:
    old = Case("egnn").build(targets=("U0", "gap"), **TWO)
    new = dataclasses.asdict(old.config) | {"species": (1, 6, 7, 8)} | setting
    with pytest.raises(UsageError, match="--from it: with these settings"):
        take_over(registry.build("egnn", new), start_of("egnn", old))


def test_another_network_is_refused(mode: Case) -> None:
    old = mode.build(targets=("U0", "gap"), **TWO)
    wider = dataclasses.asdict(old.config) | {"layers": old.config.layers + 1}
    with pytest.raises(UsageError, match="--from it: with these settings"):
        take_over(registry.build(mode.name, wider), start_of(mode.name, old))
    flatter = dataclasses.asdict(old.config) | {"layers": old.config.layers - 1}
    with pytest.raises(UsageError, match="--from it: with these settings"):
        take_over(registry.build(mode.name, flatter), start_of(mode.name, old))


@pytest.mark.parametrize("name", [*SMALL, *DENSITIES])
def test_parts_have_names(name: str) -> None:
    model = registry.build(name, NETWORKS[name])
    names = [n for n, _ in model.named_parameters()]
    first, both = (parameters_of(model, str(depth), "--freeze") for depth in (1, 2))
    assert 0 < len(first) < len(both) < len(names)
    assert parameters_of(model, "*", "--freeze") == names
    with pytest.raises(UsageError, match=r"--freeze nothing: no such part; there are .*layers"):
        parameters_of(model, "nothing", "--freeze")
    with pytest.raises(UsageError, match=r"--freeze 99: the network has \d layers"):
        parameters_of(model, "99", "--freeze")
    freeze(model, ["1"])
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(first)
    with pytest.raises(UsageError, match="nothing is left to learn"):
        freeze(model, ["*"])
