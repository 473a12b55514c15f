"""DimeNet's dense layers: the compiled chain against PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ase.build
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.dimenet.kernels import choice, edge_layers
from neupol_cli.models.dimenet.kernels.block_layers import BlockLayers
from neupol_cli.models.dimenet.kernels.edge_layers import Given, Layer, layered, library, plainly
from neupol_cli.models.nn.graph import Graph
from tests.compiler import needs_compiler

pytestmark = needs_compiler
ENDS = ((1, -1), (0, 2), (3, -1), (4, 3), (5, 0))  # the chain of an interaction, without its end
SMALL = {"hidden": 32, "layers": 2, "triplet": 16, "basis": 4, "output": 12, "species": (1, 6, 8)}


def chain(edges: int, seed: int = 0) -> tuple[list[Layer], Given]:
    """Layers of 32 and 16 numbers with and without a bias, a skip, a factor."""
    make = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        made = torch.randn(*shape, generator=make, dtype=torch.float64) / shape[-1] ** 0.5
        return made.requires_grad_()

    widths, layers = [32, 16], []
    for n, (of, skip) in enumerate(ENDS):
        bias, factor = some(32) if n else None, some(32, 5) if n in (1, 2) else None
        layers.append(Layer(of, skip, some(32, widths[of]), bias, factor))
        widths.append(32)
    return layers, (some(edges, 32), some(edges, 16), some(edges, 5))


def leaves(layers: list[Layer], given: Given) -> list[torch.Tensor]:
    return [x for x in (*given, *(x for layer in layers for x in layer[2:])) if x is not None]


def loops_for(given: Given) -> Any:
    found = library(given[0], (32, 16))
    assert found is not None
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("edges", [0, 7, 500])
def test_the_loops_give_the_plain_chain_with_derivatives(edges: int, threads: int) -> None:
    layers, given = chain(edges)
    inputs, usual = leaves(layers, given), torch.get_num_threads()
    weight = torch.randn(edges, 32, dtype=torch.float64, requires_grad=True)
    rates = [torch.randn_like(x) for x in inputs]

    def derivatives(last: torch.Tensor) -> list[torch.Tensor]:
        """It, its derivatives as training has them and as forces do, and second ones."""
        first = torch.autograd.grad(last, inputs, weight, retain_graph=True)
        recorded = torch.autograd.grad(last, inputs, weight, create_graph=True)
        second = torch.autograd.grad(recorded, [weight, *inputs], rates)
        return [last, *first, *recorded, *second]

    torch.set_num_threads(threads)
    try:
        found = derivatives(layered(loops_for(given), layers, given))
    finally:
        torch.set_num_threads(usual)
    for one, other in zip(found, derivatives(plainly(layers, given)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_derivatives_are_those_of_differences() -> None:
    layers, given = chain(3)
    ends, loops = [layer[:2] for layer in layers], loops_for(given)

    def last(*inputs: torch.Tensor) -> torch.Tensor:
        rest = iter(inputs[3:])
        made = [
            Layer(*end, *(None if x is None else next(rest) for x in layer[2:]))  # type: ignore[arg-type]
            for end, layer in zip(ends, layers, strict=True)
        ]
        return layered(loops, made, inputs[:3])  # type: ignore[arg-type]

    inputs = leaves(layers, given)
    assert torch.autograd.gradcheck(last, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(last, inputs, fast_mode=True)


@pytest.mark.parametrize("wanted", [("given", 0), ("given", 2), ("weight", 3), ("factor", 1)])
def test_only_the_derivatives_that_are_wanted(wanted: tuple[str, int]) -> None:
    layers, given = chain(200)
    name, n = wanted
    at = given[n] if name == "given" else getattr(layers[n], name)
    found = [
        torch.autograd.grad(last.square().mean(), at)[0]
        for last in (layered(loops_for(given), layers, given), plainly(layers, given))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_single_precision_and_no_gradient() -> None:
    layers, given = chain(300)
    exact = plainly(layers, given)
    narrow = [Layer(*layer[:2], *_single(layer[2:])) for layer in layers]  # type: ignore[arg-type]
    single: Given = _single(given)  # type: ignore[assignment]
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            found = layered(loops_for(single), narrow, single)
        assert found.requires_grad == recorded
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-5)
    assert library(given[0], (32, 24)) is None


def _single(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if x is None else x.float() for x in tensors)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the loops have been called, of however few edges."""
    monkeypatch.setattr(choice, "FEWEST", 0)
    calls, apply = [], edge_layers._Layered.apply

    def watched(*inputs: Any) -> torch.Tensor:
        calls.append(None)
        return apply(*inputs)

    monkeypatch.setattr(edge_layers._Layered, "apply", watched)
    return lambda: len(calls)


@pytest.mark.parametrize("residuals", [(1, 2), (0, 0), (2, 1)])
def test_a_network_has_the_same_answers_with_and_without(
    residuals: tuple[int, int], counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    before, after = residuals
    more = {"output_start": "glorot", "before_skip": before, "after_skip": after}
    model = registry.build("dimenet", SMALL | more).double()
    structures = [ase.build.molecule("CH3CH2OH"), ase.Atoms("C")]
    graph = Graph.from_atoms(structures, torch.float64)
    weights = list(model.parameters())

    def everything() -> list[torch.Tensor]:
        with torch.no_grad():
            value = model.network(graph)
        forces = model.derivatives(graph)[1]
        slopes = torch.autograd.grad(model.network(graph).square().sum(), weights)
        return [value, forces, *slopes]

    found = everything()
    assert counted() == 3 * 2 * SMALL["layers"]  # type: ignore[operator]
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    plain = everything()
    assert counted() == 3 * 2 * SMALL["layers"]  # type: ignore[operator]
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_forces_are_learnt_by_the_loops(
    counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = registry.build("dimenet", SMALL | {"output_start": "glorot"}).double()
    graph = Graph.from_atoms([ase.build.molecule("CH3OH"), ase.Atoms("C")], torch.float64)

    def slopes() -> tuple[torch.Tensor, ...]:
        value, forces = model.derivatives(graph, create_graph=True)[:2]
        loss = value.square().sum() + forces.square().sum()
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    found = slopes()
    assert counted() == 2 * SMALL["layers"]  # type: ignore[operator]
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    for one, other in zip(found, slopes(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (0, 1, 2)])
def test_the_derivative_of_what_comes_back(wanted: tuple[int, ...]) -> None:
    layers, given = chain(200)
    inputs, rate = leaves(layers, given), torch.randn(200, 32, dtype=torch.float64)
    rates = [torch.randn(200, width, dtype=torch.float64) for width in (32, 16, 5)]

    def derivatives(last: torch.Tensor) -> list[torch.Tensor]:
        """By given ones, once; by everything, of these and the last y; and once more."""
        at = [given[n] for n in wanted]
        first = torch.autograd.grad(last, at, rate, create_graph=True)  # type: ignore[arg-type]
        sums = [(g * rates[n]).sum() for n, g in zip(wanted, first, strict=True)]
        loss = last.square().sum() + sum(sums)
        second = torch.autograd.grad(loss, inputs, create_graph=True)
        third = torch.autograd.grad(sum(g.square().sum() for g in second), inputs)
        return [*first, *second, *third]

    found = derivatives(layered(loops_for(given), layers, given))
    for one, other in zip(found, derivatives(plainly(layers, given)), strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)


def test_a_chain_without_a_factor_has_the_derivative_of_what_comes_back() -> None:
    layers, (m, t, _) = chain(200)
    bare = [layer._replace(factor=None) for layer in layers]
    weights = leaves(bare, (m, t, None))
    found = []
    for last in (
        layered(loops_for((m, t, None)), bare, (m, t, None)),
        plainly(bare, (m, t, None)),
    ):
        (first,) = torch.autograd.grad(last.sum(), m, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), weights, allow_unused=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_of_few_edges_the_network_itself_serves() -> None:
    block = registry.build("dimenet", SMALL).double().backbone.layers[0]
    few, many = (torch.zeros(edges, 32, dtype=torch.float64) for edges in (511, 512))
    assert choice.edgewise(block, few) is block
    assert isinstance(choice.edgewise(block, many), BlockLayers)
