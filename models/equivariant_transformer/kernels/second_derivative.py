"""Second derivatives of a plain formula that can be differentiated once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def second_derivative(
    formula: Callable[..., Tensor | tuple[Tensor, ...]],
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor],
    rates: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The derivative of sum(d sum(gradients * formula(*inputs)) / d inputs * rates), recorded.

    Args:
        formula: plain PyTorch.
        gradients: one for each output.
        inputs: what the formula is of.
        rates: one for each input, or None where it does not move.

    Returns:
        By each gradient, then by each input; None where nothing depends on it.
    """
    with torch.enable_grad():
        by = [_variable(gradient) for gradient in gradients]
        own = [_variable(tensor) for tensor in inputs]
        moving = [(x, rate) for x, rate in zip(own, rates, strict=True) if rate is not None]
        firsts = torch.autograd.grad(formula(*own), [x for x, _ in moving], by, create_graph=True)
        return list(
            torch.autograd.grad(
                firsts,
                (*by, *own),
                [rate for _, rate in moving],
                create_graph=True,
                allow_unused=True,
            )
        )


def _variable(tensor: Tensor) -> Tensor:
    """The same numbers as a variable of their own: the gradient may depend on the inputs, and a
    derivative by these, taken at the tensors themselves, would go through it a second time."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
