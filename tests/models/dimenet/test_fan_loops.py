"""DimeNet's sum over k: the compiled loop against fans in PyTorch's operations."""

from __future__ import annotations

from typing import Any

import ase
import ase.build
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.dimenet.kernels import fan_loops
from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.dimenet.kernels.fan_loops import FanLoops
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours
from tests.compiler import needs_compiler

pytestmark = needs_compiler
CRYSTAL = ase.Atoms(
    "CO", [[0.1, 0, 0], [1.3, 1.5, 1.4]], cell=[[2.9, 0, 0.3], [0, 3.1, 0], [0.4, 0, 3.3]], pbc=True
)
MOLECULES = [ase.build.molecule("CH3CH2OH"), ase.Atoms("C"), ase.build.molecule("CO2")]
MANY = [ase.Atoms("C" * 70, [[9.0 * k, 0, 0] for k in range(70)]), *MOLECULES]
SMALL = {"hidden": 16, "layers": 1, "triplet": 32, "basis": 4, "output": 12, "species": (1, 6, 8)}


def small(**more: Any) -> Any:
    torch.manual_seed(0)
    return registry.build("dimenet", SMALL | {"output_start": "glorot"} | more).double()


def basis_of(model: Any, structures: list[ase.Atoms]) -> tuple[Any, int]:
    """The basis that the network takes, and how many edges there are."""
    graph = Graph.from_atoms(structures, torch.float64)
    found = neighbours(graph, graph.positions, 5.0)
    edges = Edges.of(found, graph.positions, graph.batch, graph.cell)
    return model.backbone.basis(edges, len(graph.numbers)).angular, len(edges.receivers)


def random_inputs(edges: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    return [
        torch.randn(*shape, generator=make, dtype=torch.float64, requires_grad=True)
        for shape in ((edges, 32), (4, 42), (32, 4))
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("structures", [MOLECULES, MANY, [CRYSTAL]])
def test_the_loop_sums_what_fans_sum_with_derivatives(
    structures: list[ase.Atoms], threads: int
) -> None:
    fans, edges = basis_of(small(), structures)
    assert isinstance(fans, FanLoops)
    inputs, usual = random_inputs(edges), torch.get_num_threads()
    weight = torch.randn(edges, 32, dtype=torch.float64, requires_grad=True)
    rates = [torch.randn_like(x) for x in inputs]

    def derivatives(basis: FanLoops | FanBasis) -> list[torch.Tensor]:
        total = basis.turned(*inputs)
        first = torch.autograd.grad(total, inputs, weight, retain_graph=True)
        recorded = torch.autograd.grad(total, inputs, weight, create_graph=True)
        second = torch.autograd.grad(recorded, [weight, *inputs], rates)
        return [total, *first, *recorded, *second]

    torch.set_num_threads(threads)
    try:
        found = derivatives(fans)
    finally:
        torch.set_num_threads(usual)
    for one, other in zip(found, derivatives(fans.basis), strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)


def test_derivatives_are_those_of_differences() -> None:
    fans, edges = basis_of(small(), [ase.build.molecule("CO2")])
    assert torch.autograd.gradcheck(fans.turned, random_inputs(edges), fast_mode=True)
    assert torch.autograd.gradgradcheck(fans.turned, random_inputs(edges), fast_mode=True)


def test_where_widths_are_odd_fans_serve() -> None:
    assert isinstance(basis_of(small(triplet=24), MOLECULES)[0], FanBasis)
    assert isinstance(basis_of(small(encoding="learned"), MOLECULES)[0], FanLoops)


def with_variables(fans: FanLoops) -> FanLoops:
    """The same with variables for what distances and angles give."""
    basis = fans.basis
    arriving = basis.arriving.detach().clone().requires_grad_()
    angular = [block.detach().clone().requires_grad_() for block in basis.angular]
    variables = FanBasis(basis.triplets, arriving, angular, basis.degrees)
    return FanLoops(variables, fans.loops)


# By t; by t and R; by R and F; by all three.
@pytest.mark.parametrize("wanted", [(0,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("structures", [MANY, [CRYSTAL]])
def test_what_forces_learn_is_what_fans_learn(
    structures: list[ase.Atoms], wanted: tuple[int, ...]
) -> None:
    found, edges = basis_of(small(), structures)
    fans = with_variables(found)
    t, *weights = random_inputs(edges)
    groups = [[t], [fans.basis.arriving], fans.basis.angular]
    at = [x for n in wanted for x in groups[n]]
    rate, rates = torch.randn_like(t), [torch.randn_like(x) for x in at]
    everything = [t, *weights, fans.basis.arriving, *fans.basis.angular]

    def derivatives(basis: FanLoops | FanBasis) -> list[torch.Tensor]:
        """By some, once; by everything, of these and the sum; and once more."""
        total = basis.turned(t, *weights)
        first = torch.autograd.grad(total, at, rate, create_graph=True)
        sums = [(g * r).sum() for g, r in zip(first, rates, strict=True)]
        loss = total.square().sum() + torch.stack(sums).sum()
        second = torch.autograd.grad(loss, everything, create_graph=True)
        squares = torch.stack([g.square().sum() for g in second]).sum()
        return [*first, *second, *torch.autograd.grad(squares, everything)]

    for one, other in zip(derivatives(fans), derivatives(fans.basis), strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("encoding", ["bessel", "learned"])
def test_forces_are_learnt_by_the_loops(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(encoding=encoding)
    graph = Graph.from_atoms(MOLECULES, torch.float64)
    calls, apply = [], fan_loops._Back.apply
    monkeypatch.setattr(
        fan_loops._Back, "apply", lambda *inputs: [calls.append(None), apply(*inputs)][1]
    )

    def slopes() -> tuple[torch.Tensor, ...]:
        value, forces = model.derivatives(graph, create_graph=True)[:2]
        loss = value.square().sum() + forces.square().sum()
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    found = slopes()
    assert len(calls) == SMALL["layers"]
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    for one, other in zip(found, slopes(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_single_precision() -> None:
    fans, edges = basis_of(small(), MOLECULES)
    inputs = random_inputs(edges)
    exact = fans.turned(*inputs)
    single = FanBasis(
        fans.basis.triplets,
        fans.basis.arriving.float(),
        [block.float() for block in fans.basis.angular],
        fans.basis.degrees,
    )
    loops = fan_loops.library(single, 32)
    assert loops is not None
    found = FanLoops(single, loops).turned(*(x.float() for x in inputs))
    scale = float(exact.detach().abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * scale)
