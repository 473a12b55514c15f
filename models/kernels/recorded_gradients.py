"""What a kernel's backward pass answers where its gradient will be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Output = Tensor | Sequence[Tensor]


def recorded_gradients(
    formula: Callable[[list[Tensor | None]], Output],
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives of sum(gradients * formula(inputs)) as a graph of PyTorch's operations.

    Inputs may depend on each other: a layer's features on the distances that it reads, too. What
    reaches one input by way of another is counted by whoever made the other. Derivatives are
    therefore taken at aliases, from which no input leads to another.

    Args:
        formula: plain PyTorch.
        inputs: what it is of.
        gradients: one for each output.
        wanted: of each input, whether its derivative is.

    Returns:
        One for each input; None where it is not wanted, or where nothing depends on it.
    """
    with torch.enable_grad():
        aliases = [None if x is None else x.view_as(x) for x in inputs]
        outputs = formula(list(aliases))
        sources = [x for x, want in zip(aliases, wanted, strict=True) if want and x is not None]
        answers = iter(
            torch.autograd.grad(outputs, sources, gradients, create_graph=True, allow_unused=True)
        )
    pairs = zip(aliases, wanted, strict=True)
    return [next(answers) if want and x is not None else None for x, want in pairs]
