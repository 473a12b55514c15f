"""Messages among all points of equal systems, and the pushes read from them, as one operation.

    m_ij   = silu(W silu(a_i + b_j + C [r_ij^2, e_ij]) + c)
    M_i    = sum_j m_ij
    phi_ij = w . silu(V m_ij + u)

Pairs are dense, (receiver, sender, system, feature): nothing is scattered, the sum over senders is
a sum over an axis. Only what stands before each silu waits for the backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neupol_cli.models.nn.linear import product


class Parts(NamedTuple):
    """What goes in; R receivers of P points, B systems, H features, k numbers a pair.

    received: (R, B, H) a; sent: (P, B, H) b; squared: (R, P - 1, B, 1); attributes:
    (R, P - 1, B, k) e, constants; to_pair: (H, 1 + k) C; weight, bias: (H, H), (H,) W and c;
    push, push_bias: (H, H), (H,) V and u; last: (1, H) w.
    """

    received: Tensor
    sent: Tensor
    squared: Tensor
    attributes: Tensor
    to_pair: Tensor
    weight: Tensor
    bias: Tensor
    push: Tensor
    push_bias: Tensor
    last: Tensor


def messages_and_pushes(p: Parts, senders: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """M (R, B, H), and phi (R - first, P - 1, B, 1) of receivers from the ``first`` one on.

    Args:
        p: see :class:`Parts`.
        senders: (R (P - 1),) the senders of one receiver after the other.
    """
    return _MessagesAndPushes.apply(senders, first, *p)


def plain(p: Parts, senders: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The same, one PyTorch operation after another."""
    numbers = torch.cat((p.squared, p.attributes), -1)
    both = functional.linear(numbers, p.to_pair) + p.received[:, None]
    both = both + p.sent.index_select(0, senders).view_as(both)
    m = functional.silu(functional.linear(functional.silu(both), p.weight, p.bias))
    inner = functional.silu(functional.linear(m[first:], p.push, p.push_bias))
    return m.sum(1), functional.linear(inner, p.last)


class _MessagesAndPushes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, senders: Tensor, first: int, *parts: Tensor) -> tuple[Tensor, Tensor]:
        p = Parts(*parts)
        shape = (*p.squared.shape[:3], p.weight.shape[0])  # R, P - 1, B, H
        numbers = torch.cat((p.squared, p.attributes), -1).flatten(0, 2)
        both = p.sent.index_select(0, senders).view(shape)
        both += p.received[:, None]
        both.view(-1, shape[3]).addmm_(numbers, p.to_pair.t())
        second = product(functional.silu(both), p.weight, p.bias)
        m = functional.silu(second)
        third = product(m[first:], p.push, p.push_bias)
        phi = functional.linear(functional.silu(third), p.last)
        ctx.first = first
        ctx.save_for_backward(senders, numbers, both, second, third, *parts)
        return m.sum(1), phi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        senders, numbers, both, second, third, *parts = ctx.saved_tensors
        p, hidden = Parts(*parts), both.shape[-1]
        by_sum, by_phi = gradients
        m = functional.silu(second)
        # phi
        last = by_phi.reshape(1, -1) @ functional.silu(third).view(-1, hidden)
        g = torch.ops.aten.silu_backward(by_phi * p.last, third).view(-1, hidden)
        push, push_bias = product(g.t(), m[ctx.first :].reshape(-1, hidden).t()), g.sum(0)
        pulled = product(g, p.push.t()).view_as(third)
        # M
        g = by_sum[:, None].expand_as(m).contiguous()
        g[ctx.first :] += pulled
        g = torch.ops.aten.silu_backward(g, second).view(-1, hidden)
        weight, bias = product(g.t(), functional.silu(both).view(-1, hidden).t()), g.sum(0)
        g = torch.ops.aten.silu_backward(product(g, p.weight.t()).view_as(both), both)
        sent = torch.zeros_like(p.sent).index_add_(0, senders, g.flatten(0, 1))
        flat = g.view(-1, hidden)
        to_pair = (numbers.t().contiguous() @ flat).t()
        squared = None
        if ctx.needs_input_grad[4]:
            squared = torch.mv(flat, p.to_pair[:, 0]).view_as(p.squared)
        of_points = (g.sum(1), sent, squared, None)
        return None, None, *of_points, to_pair, weight, bias, push, push_bias, last
