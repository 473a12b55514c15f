"""silu behind an affine map: compiled loops against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.nn import activation
from neupol_cli.models.nn.activation import activated
from neupol_cli.models.nn.linear import Linear
from tests.compiler import needs_compiler

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "FEWEST", 0)


def plain(layer: Linear, x: Tensor, skip: Tensor | None) -> Tensor:
    y = functional.silu(functional.linear(x, layer.weight, layer.bias))
    return y if skip is None else y + skip


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
    orders = values[:1]
    for _ in range(order):
        total = sum((k + 1.5) * v.square().sum() for k, v in enumerate(values))
        values = list(torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True))
        orders += values
    return orders


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
