"""Activations that several networks share, and the constants of the equivariant ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.kernels import activation as kernels
from neupol_cli.models.nn.linear import Linear

# (E f(z)^2)^(-1/2) over normal z, as e3nn estimates it from 10^6 samples: published weights go with
# these numbers, not with the integrals. The last is f(x) = 0.6 x + 0.4 x (2 sigmoid(x) - 1).
SILU = 1.6791767923989418
SIGMOID = 1.8467055342154763
TANH = 1.5937334472592695
SMOOTH_LEAKY_RELU = 1.531320475574866

# With fewer numbers a call of the compiled loops costs more than it saves.
FEWEST = 1 << 13


def activated(layer: Linear, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """silu(L x), plus ``skip`` if there is one.

    Args:
        layer: L, with or without a bias.
        x: (P, in).
        skip: (P, out).

    Returns:
        (P, out), differentiable to any order.
    """
    if _kernel_serves(layer, x):
        return kernels.silu_of_linear(x, layer.weight, layer.bias, skip)
    y = functional.silu(layer(x), inplace=not torch.is_grad_enabled())
    return y if skip is None else y + skip


def _kernel_serves(layer: Linear, x: Tensor) -> bool:
    """Whether derivatives follow and numbers are enough for the compiled loops."""
    large = x.shape[0] * layer.out_features >= FEWEST
    return torch.is_grad_enabled() and large and kernels.serves(x)
