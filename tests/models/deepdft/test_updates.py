"""PaiNN's updates and gates: compiled loops against the formulas, derivatives twice over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neupol_cli.models.deepdft.kernels.updates import PLAIN, updates

POINTS, HIDDEN = 5, 32
S, V = (POINTS, HIDDEN), (POINTS, 3, HIDDEN)


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_() for x in made]


def zero_vectors(both: Tensor) -> Tensor:
    """The same with vectors V of length zero, and others."""
    with torch.no_grad():
        both[0, :, HIDDEN : HIDDEN + 20] = 0
    return both


def strided(ds: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """As messages come: rows of one tensor."""
    out = torch.cat((ds[:, None], dv), 1)
    return out[:, 0], out[:, 1:]


def meet(soft: float) -> Callable[..., object]:
    return lambda by, s, both: by.meet(s, both, soft)


def change(by, s, both, v, mixed):
    _, products, left = by.meet(s, both, 0.0)
    return by.change(s, v, left, products, mixed)


def update(by, s, both, v, mixed):
    """Both, with all that comes back to U."""
    inputs, products, left = by.meet(s, both, 0.1)
    return by.change(inputs[:, :HIDDEN], v * products[:, None], left, products, mixed)


def first_gate(by, x, ds, dv):
    return by.gate(x, *strided(ds, dv), None, None)


def gate(by, x, ds, dv, s, v):
    return by.gate(x, *strided(ds, dv), s, v)


BOTH, MIXED, GATES = (POINTS, 3, 2 * HIDDEN), (POINTS, 3 * HIDDEN), (POINTS, 2 * HIDDEN)
CASES = {
    "meet": (meet(0.0), (S, BOTH)),
    "meet, softened": (meet(0.1), (S, BOTH)),
    "change": (change, (S, BOTH, V, MIXED)),
    "update": (update, (S, BOTH, V, MIXED)),
    "first gate": (first_gate, (GATES, S, V)),
    "gate": (gate, (GATES, S, V, S, V)),
}


@pytest.mark.parametrize("name", CASES)
def test_loops_are_the_formulas(name: str) -> None:
    work, shapes = CASES[name]
    inputs = tensors(*shapes)
    zero_vectors(inputs[1]) if BOTH in shapes else None
    compiled = updates(inputs[0], HIDDEN, False)
    assert compiled is not PLAIN  # there is a compiler where tests run
    answers = []
    for by in (compiled, PLAIN):
        outputs = work(by, *inputs)
        loss = sum((x * (1 + k) + x.square()).sum() for k, x in enumerate(outputs))
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        plain_first = torch.autograd.grad(
            sum((x * (1 + k) + x.square()).sum() for k, x in enumerate(work(by, *inputs))), inputs
        )
        answers.append([*outputs, *first, *second, *plain_first])
    for ours, plain in zip(*answers, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)


def test_formulas_serve_where_forces_are_learnt_or_rows_fit_no_register() -> None:
    like = torch.randn(3, HIDDEN)
    assert updates(like, HIDDEN, True) is PLAIN
    assert updates(like, 24, False) is PLAIN
