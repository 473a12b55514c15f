"""The product: equal to PyTorch's, differentiable to second order, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from neupol_cli.models.nn import linear
from neupol_cli.models.nn.linear import Linear, product


def matrices(rows: int, wide: int, narrow: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, wide), (narrow, wide), (narrow,))
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


@pytest.fixture(params=[True, False], ids=["intel", "others"], autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either choice of library, on whatever processor the tests run."""
    monkeypatch.setattr(linear, "_intel", lambda: request.param)


@pytest.mark.parametrize("shape", [(200, 48, 64), (33, 257, 128), (70, 32, 32), (5, 3, 2)])
def test_values_and_gradients_equal_pytorchs(shape: tuple[int, int, int]) -> None:
    inputs = matrices(*shape)
    ours, theirs = product(*inputs), functional.linear(*inputs)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=0, atol=2e-4)
    weight = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, weight),
        torch.autograd.grad(theirs, inputs, weight),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-4)


def test_second_derivatives_equal_pytorchs() -> None:
    found = []
    for multiply in (product, functional.linear):
        x, w, b = matrices(64, 40, 50)
        (first,) = torch.autograd.grad(multiply(x, w, b).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), w)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-3)


def test_slices_and_more_than_two_dimensions() -> None:
    x, w, b = matrices(60, 96, 64)
    wide = torch.cat((w, w), 1)
    sliced = product(x, wide[:, 96:], b)
    np.testing.assert_allclose(sliced.detach(), product(x, w, b).detach(), rtol=0, atol=1e-5)
    deep = product(x.view(3, 20, 96), w, b)
    np.testing.assert_allclose(deep.view(60, 64).detach(), sliced.detach(), rtol=0, atol=1e-5)


def test_nothing_in_nothing_out() -> None:
    assert product(torch.empty(0, 64), torch.empty(64, 64)).shape == (0, 64)


def test_the_layer_has_torchs_parameters() -> None:
    torch.manual_seed(0)
    ours = Linear(64, 64)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(64, 64)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("shape", [(6, 128), (128, 6), (8, 64), (42, 56), (2, 128)])
def test_narrow_products_of_many_rows(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    outs, ins = shape
    x, weight = torch.randn(2500, ins, requires_grad=True), torch.randn(outs, ins)
    weight.requires_grad_()
    y = product(x, weight)
    found = [y, *torch.autograd.grad(y.square().sum(), [x, weight])]
    a, b = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    z = a @ b.t()
    exact = [z, *torch.autograd.grad(z.square().sum(), [a, b])]
    for one, other in zip(found, exact, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-6 * scale)
