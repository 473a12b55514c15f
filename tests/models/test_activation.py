"""silu behind an affine map, and gradients of weights: compiled loops against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models import activation
from neupol_cli.models.activation import activated
from neupol_cli.models.gram import gram
from neupol_cli.models.linear import Linear, product
from tests.compiler import needs_compiler

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "FEWEST", 0)


def plain(layer: Linear, x: Tensor, skip: Tensor | None) -> Tensor:
    found = functional.silu(functional.linear(x, layer.weight, layer.bias))
    return found if skip is None else found + skip


def case(bias: bool, skipped: bool, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """Sizes that fill no vector register."""
    torch.manual_seed(2)
    layer = Linear(5, 7, bias=bias).to(dtype)
    x = 3 * torch.randn(13, 5, dtype=dtype)
    skip = torch.randn(13, 7, dtype=dtype) if skipped else None
    leaves = [each for each in (x, skip) if each is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    return layer, x, skip, [*leaves, *layer.parameters()]


def derivatives(function: Any, layer: Any, x: Any, skip: Any, leaves: Any, order: int) -> list[Any]:
    """Values, and gradients of gradients of ... by everything."""
    values = [function(layer, x, skip)]
    found = values[:1]
    for _ in range(order):
        total = sum((k + 1.5) * v.square().sum() for k, v in enumerate(values))
        values = list(torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True))
        found += values
    return found


@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_derivatives_of_any_order_are_pytorchs(bias: bool, skipped: bool, order: int) -> None:
    given = case(bias, skipped)
    ours, theirs = (derivatives(f, *given, order) for f in (activated, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_what_a_training_on_forces_does_is_exact() -> None:
    """The last gradient without a graph of its own takes the compiled second derivative."""
    results = []
    for function in (activated, plain):
        layer, x, skip, leaves = case(True, True)
        y = function(layer, x, skip)
        (force,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = y.square().mean() + force.abs().sum()
        results.append([y.detach(), force.detach(), *torch.autograd.grad(loss, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_without_gradients_nothing_given_is_written_to() -> None:
    layer, x, skip, _ = case(True, True)
    before = x.detach().clone(), skip.detach().clone()
    with torch.no_grad():
        found = activated(layer, x, skip)
        torch.testing.assert_close(found, plain(layer, x, skip), rtol=0, atol=1e-14)
    assert torch.equal(x, before[0]) and torch.equal(skip, before[1])


def test_large_numbers_and_threads() -> None:
    layer = Linear(64, 96)
    x = torch.randn(300, 64) * torch.logspace(-3, 4, 300)[:, None]
    results = []
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        leaf = x.clone().requires_grad_()
        y = activated(layer, leaf)
        results.append([y, *torch.autograd.grad(y.sum(), [leaf, layer.weight, layer.bias])])
    torch.set_num_threads(threads)
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))
    expected = functional.silu(layer(x))
    torch.testing.assert_close(results[0][0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "ins", "outs"), [(1000, 128, 32), (77, 7, 48), (64, 1, 16)])
def test_gradients_of_weights(rows: int, ins: int, outs: int) -> None:
    g, x = torch.randn(rows, ins), torch.randn(rows, outs)
    exact = g.double().t() @ x.double()
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        found = gram(g, x)
        assert found is not None
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * rows**0.5 * 10)
    torch.set_num_threads(threads)
    assert gram(g, x[:, :-1]) is None and gram(g[:9], x[:9]) is None
    assert gram(g.double(), x.double()) is None


def test_the_default_type_of_number_changes_nothing() -> None:
    g, x = torch.randn(200, 16), torch.randn(200, 32)
    usual = gram(g, x)
    torch.set_default_dtype(torch.float64)
    try:
        found = gram(g, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert usual is not None and found is not None
    assert found.dtype == torch.float32 and torch.equal(found, usual)


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
