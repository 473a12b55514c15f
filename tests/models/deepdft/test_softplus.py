"""The shifted softplus, of numbers and of an edge's ends: compiled loops against the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neupol_cli.models.deepdft import softplus as plain
from neupol_cli.models.deepdft.kernels import softplus as compiled

SENDERS, RECEIVERS = torch.tensor([0, 2, 2, 1, 0]), torch.tensor([3, 3, 0, 1, 1])


def far_and_near(*shape: int) -> Tensor:
    """Numbers of all sizes below 10, zero among them: PyTorch's softplus is x itself from 20 on."""
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64) * torch.logspace(-3, 0.4, shape[-1])
    x[0, 0] = 0
    return x.requires_grad_()


def of_numbers(module, x: Tensor, _: Tensor) -> Tensor:
    return module.ssp(x)


def of_ends(module, own: Tensor, other: Tensor) -> Tensor:
    return module.ssp_of_ends(own, other, SENDERS, RECEIVERS)


@pytest.mark.parametrize("work", [of_numbers, of_ends])
@pytest.mark.parametrize("width", [32, 20])  # 20 fills no register: the formula serves
def test_loops_are_the_formulas(work, width: int) -> None:
    inputs = [far_and_near(3, width), far_and_near(4, width)]
    answers = []
    for module in (compiled, plain):
        y = work(module, *inputs)
        once = torch.autograd.grad((y * y).sum(), inputs, allow_unused=True)
        y = work(module, *inputs)
        first = torch.autograd.grad((y * y).sum(), inputs, create_graph=True, allow_unused=True)
        first = [g for g in first if g is not None]
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), inputs, allow_unused=True)
        answers.append([x for x in (y, *once, *first, *second) if x is not None])
    for ours, formula in zip(*answers, strict=True):
        torch.testing.assert_close(ours, formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 2e-14)])
def test_numbers_far_from_zero_are_exact(dtype: torch.dtype, error: float) -> None:
    x = torch.linspace(-90, 90, 4096, dtype=torch.float64).to(dtype)
    exact = x.double().clamp(min=0) + torch.log1p(torch.exp(-x.double().abs())) - math.log(2)
    torch.testing.assert_close(compiled.ssp(x).double(), exact, rtol=0, atol=error)
