"""The equivariant transformer's attention as one operation, its derivatives from given loops.

The backward pass, and the one behind it that training on forces needs, compute what they read
again, so that nothing waits in memory. Third derivatives, and second ones by the radial weights,
come from the plain formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.equivariant_transformer.attention import (
    AttentionShape,
    MessageInputs,
    attention,
)
from neupol_cli.models.equivariant_transformer.kernels.second_derivative import second_derivative
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.unique_edges import UniqueEdges


class Loops(NamedTuple):
    """The passes over all edges that one kernel brings.

    Attributes:
        sums: (inputs, edges, shape) -> X and Y.
        first: (inputs, edges, shape, gradients, needed) -> derivatives by the inputs.
        second: (inputs, rates, edges, shape, gradients, needed) -> derivatives of
            sum(first * rates) by the gradients and by the inputs.
    """

    sums: Callable[..., tuple[Tensor, Tensor]]
    first: Callable[..., MessageInputs]
    second: Callable[..., tuple[tuple[Tensor, Tensor], MessageInputs]]


class Attention(torch.autograd.Function):
    """X and Y; their derivative is :class:`AttentionGradient`."""

    @staticmethod
    def forward(
        ctx: Context, loops: Loops, edges: UniqueEdges, shape: AttentionShape, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.loops, ctx.edges, ctx.shape = loops, edges, shape
        ctx.save_for_backward(*inputs)
        return loops.sums(MessageInputs(*inputs), edges, shape)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        common = ctx.loops, ctx.edges, ctx.shape, _gradients_needed(ctx, 3)
        return None, None, None, *AttentionGradient.apply(*common, *gradients, *ctx.saved_tensors)


class AttentionGradient(torch.autograd.Function):
    """The derivative of sum(gradients * attention) by every input that needs it."""

    @staticmethod
    def forward(
        ctx: Context,
        loops: Loops,
        edges: UniqueEdges,
        shape: AttentionShape,
        needed: MessageInputs,
        *gradients_and_inputs: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.loops, ctx.edges, ctx.shape = loops, edges, shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients_and_inputs)
        by_x, by_y, *inputs = gradients_and_inputs
        total = loops.first(MessageInputs(*inputs), edges, shape, (by_x, by_y), needed)
        return _needed_only(total, needed)

    @staticmethod
    def backward(ctx: Context, *rates: Tensor | None) -> tuple[Tensor | None, ...]:
        by_x, by_y, *inputs = ctx.saved_tensors
        p, g, weight = MessageInputs(*inputs), (by_x, by_y), MessageInputs._fields.index("weight")
        if torch.is_grad_enabled() or any(r is not None for r in rates[weight : weight + 2]):

            def formula(*variables: Tensor) -> tuple[Tensor, Tensor]:
                return attention(MessageInputs(*variables), ctx.edges, ctx.shape)

            return None, None, None, None, *second_derivative(formula, g, inputs, rates)
        t = (torch.zeros_like(a) if b is None else b for a, b in zip(p, rates, strict=True))
        needed = _gradients_needed(ctx, 6)
        by, total = ctx.loops.second(p, MessageInputs(*t), ctx.edges, ctx.shape, g, needed)
        return None, None, None, None, *by, *_needed_only(total, needed)


def _gradients_needed(ctx: Context, skip: int) -> MessageInputs:
    """For each input, whether the backward pass under way wants its derivative."""
    inputs = ctx.saved_tensors[-len(MessageInputs._fields) :]
    needed = ctx.needs_input_grad[skip:]
    return MessageInputs(*(n and gradient_needed(x) for n, x in zip(needed, inputs, strict=True)))  # type: ignore[arg-type]


def _needed_only(total: MessageInputs, needed: MessageInputs) -> tuple[Tensor | None, ...]:
    return tuple(x if need else None for x, need in zip(total, needed, strict=True))
