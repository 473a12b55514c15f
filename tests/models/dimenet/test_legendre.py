"""DimeNet's Legendre polynomials: the compiled pass against PyTorch's operations."""

from __future__ import annotations

import pytest
import torch

from neupol_cli.models.dimenet.kernels.choice import legendre_polynomials
from neupol_cli.models.dimenet.kernels.legendre import compiled, library
from neupol_cli.models.dimenet.spherical_basis import legendre
from tests.compiler import needs_compiler

pytestmark = needs_compiler


# Nothing; less than a piece; pieces and a part of one.
@pytest.mark.parametrize("shape", [(0, 2, 2), (3, 4, 4), (5, 13, 13)])
@pytest.mark.parametrize("orders", [3, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_pass_gives_the_plain_polynomials_with_derivatives(
    shape: tuple[int, ...], orders: int, threads: int
) -> None:
    cosines = (2 * torch.rand(*shape, dtype=torch.float64) - 1).requires_grad_()
    rate = torch.randn(*shape, orders, dtype=torch.float64, requires_grad=True)
    more = torch.randn(*shape, dtype=torch.float64)
    loops, usual = library(cosines, orders), torch.get_num_threads()
    assert loops is not None

    def derivatives(values: torch.Tensor) -> list[torch.Tensor]:
        (first,) = torch.autograd.grad(values, cosines, rate, create_graph=True)
        second = torch.autograd.grad(first, [cosines, rate], more, retain_graph=True)
        recorded = torch.autograd.grad(first, [cosines, rate], more, create_graph=True)
        third = torch.autograd.grad(recorded[0].sum() + recorded[1].sum(), [cosines, rate])
        return [values, first, *second, *recorded, *third]

    torch.set_num_threads(threads)
    try:
        found = derivatives(compiled(loops, cosines, orders))
    finally:
        torch.set_num_threads(usual)
    for one, other in zip(found, derivatives(legendre(cosines, orders)), strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * scale)


def test_derivatives_are_those_of_differences() -> None:
    cosines = (2 * torch.rand(70, dtype=torch.float64) - 1).requires_grad_()
    loops = library(cosines, 5)
    assert loops is not None
    assert torch.autograd.gradcheck(lambda c: compiled(loops, c, 5), cosines)
    assert torch.autograd.gradgradcheck(lambda c: compiled(loops, c, 5), cosines)


def test_single_precision_turned_around_and_where_none_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cosines = 2 * torch.rand(30, 40, dtype=torch.float64) - 1
    exact = legendre(cosines.t(), 7)
    found = legendre_polynomials(cosines.float().t(), 7)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6)
    assert library(cosines, 2) is None
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    assert torch.equal(legendre_polynomials(cosines, 7), legendre(cosines, 7))
