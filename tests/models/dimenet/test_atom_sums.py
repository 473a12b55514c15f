"""DimeNet's sums over an atom's edges: the compiled pass against PyTorch's operations."""

from __future__ import annotations

import pytest
import torch

from neupol_cli.models.dimenet.kernels.atom_sums import compiled, library, plainly
from tests.compiler import needs_compiler

pytestmark = needs_compiler
POINTS = 9


def some(edges: int) -> list[torch.Tensor]:
    """m, r and C."""
    make = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=make, dtype=torch.float64, requires_grad=True)
        for shape in ((edges, 32), (edges, 5), (32, 5))
    ]


def receivers(edges: int) -> torch.Tensor:
    """No order, and nothing for the last atom."""
    return torch.randint(POINTS - 1, (edges,), generator=torch.Generator().manual_seed(1))


# By m; by r; by both, as forces ask; by all.
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("edges", [0, 7, 150])
def test_the_pass_gives_the_plain_sums_with_derivatives(
    edges: int, wanted: tuple[int, ...]
) -> None:
    inputs, ends = some(edges), receivers(edges)
    loops = library(inputs[0])
    assert loops is not None
    at = [inputs[n] for n in wanted]
    rate = torch.randn(POINTS, 32, dtype=torch.float64, requires_grad=True)
    rates = [torch.randn_like(x) for x in at]

    def derivatives(sums: torch.Tensor) -> list[torch.Tensor]:
        plain = torch.autograd.grad(sums, at, rate, retain_graph=True)
        first = torch.autograd.grad(sums, at, rate, create_graph=True)
        parts = [(g * r).sum() for g, r in zip(first, rates, strict=True)]
        loss = sums.square().sum() + torch.stack(parts).sum()
        recorded = torch.autograd.grad(loss, [rate, *inputs], create_graph=True)
        squares = torch.stack([g.square().sum() for g in recorded]).sum()
        third = torch.autograd.grad(squares, [rate, *inputs], retain_graph=True)
        second = torch.autograd.grad(loss, [rate, *inputs])
        return [sums, *plain, *first, *second, *recorded, *third]

    found = derivatives(compiled(loops, *inputs, ends, POINTS))
    for one, other in zip(found, derivatives(plainly(*inputs, ends, POINTS)), strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)


def test_single_precision_and_where_none_serves() -> None:
    inputs, ends = some(150), receivers(150)
    single = [x.detach().float() for x in inputs]
    loops = library(single[0])
    assert loops is not None
    exact = plainly(*inputs, ends, POINTS).detach()
    found = compiled(loops, *single, ends, POINTS).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
    assert library(torch.zeros(3, 24)) is None
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert library(single[0]) is None
    finally:
        torch.set_num_threads(usual)
