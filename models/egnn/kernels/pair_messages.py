"""Messages among all points of equal systems, and phi_x read from them, as one operation.

    m_ij   = silu(W silu(a_i + b_j + C [r_ij^2, e_ij]) + c)
    M_i    = sum_j m_ij
    phi_ij = w . silu(V m_ij + u)

Pairs are dense, (receiver, sender, system, feature): nothing is scattered, the sum over senders is
a sum over an axis. Only what stands before each silu waits for the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neupol_cli.models.kernels.context import Context
from neupol_cli.models.nn.linear import Perceptron, product


class PairInputs(NamedTuple):
    """What goes in; R receivers of P points, B systems, H features, k numbers a pair.

    received: (R, B, H) a; sent: (P, B, H) b; squared: (R, P - 1, B, 1); attributes:
    (R, P - 1, B, k) e, constants; to_pair: (H, 1 + k) C; weight, bias: (H, H), (H,) W and c;
    x_weight, x_bias: (H, H), (H,) V and u; last: (1, H) w.
    """

    received: Tensor
    sent: Tensor
    squared: Tensor
    attributes: Tensor
    to_pair: Tensor
    weight: Tensor
    bias: Tensor
    x_weight: Tensor
    x_bias: Tensor
    last: Tensor


def pair_inputs(
    h: Tensor,
    x_ij: Tensor,
    attributes: Tensor,
    first: int,
    phi_e: Perceptron,
    phi_x: Perceptron,
) -> PairInputs:
    """L[h_i, h_j, d] = A h_i + B h_j + C d with A h and B h taken once a point, in one product.

    Args:
        h: (P, B, H).
        x_ij: (R, P - 1, B, 3).
        attributes: (R, P - 1, B, k).
        first: the first receiver.
        phi_e, phi_x: the layer's.
    """
    size, bias = h.shape[-1], phi_e.first.bias
    to_receiver, to_sender, to_pair = phi_e.first.weight.split([size, size, 3], 1)
    maps = torch.cat((to_receiver, to_sender)), torch.cat((bias, torch.zeros_like(bias)))
    received, sent = product(h, *maps).split(size, -1)
    squared = x_ij.square().sum(-1, keepdim=True)
    of_phi_e = (phi_e.second.weight, phi_e.second.bias)
    of_phi_x = (phi_x.first.weight, phi_x.first.bias, phi_x.second.weight)
    return PairInputs(received[first:], sent, squared, attributes, to_pair, *of_phi_e, *of_phi_x)


def messages_and_phi_x(p: PairInputs, senders: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """M and phi_x of all pairs in one operation.

    Args:
        p: what they are made of.
        senders: (R (P - 1),) the senders of one receiver after the other.
        first: phi_x is computed of receivers from this one on.

    Returns:
        (R, B, H) M, and (R - first, P - 1, B, 1) phi_x.
    """
    return _MessagesAndPhiX.apply(senders, first, *p)


class _MessagesAndPhiX(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, senders: Tensor, first: int, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        p = PairInputs(*inputs)
        shape = (*p.squared.shape[:3], p.weight.shape[0])  # R, P - 1, B, H
        numbers = torch.cat((p.squared, p.attributes), -1).flatten(0, 2)
        both = p.sent.index_select(0, senders).view(shape)
        both += p.received[:, None]
        both.view(-1, shape[3]).addmm_(numbers, p.to_pair.t())
        second = product(functional.silu(both), p.weight, p.bias)
        m = functional.silu(second)
        third = product(m[first:], p.x_weight, p.x_bias)
        phi = functional.linear(functional.silu(third), p.last)
        ctx.first = first
        ctx.save_for_backward(senders, numbers, both, second, third, *inputs)
        return m.sum(1), phi

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        senders, numbers, both, second, third, *inputs = ctx.saved_tensors
        p, hidden = PairInputs(*inputs), both.shape[-1]
        by_sum, by_phi = gradients
        m = functional.silu(second)
        # phi
        last = by_phi.reshape(1, -1) @ functional.silu(third).view(-1, hidden)
        g = torch.ops.aten.silu_backward(by_phi * p.last, third).view(-1, hidden)
        x_weight, x_bias = product(g.t(), m[ctx.first :].reshape(-1, hidden).t()), g.sum(0)
        by_phi_x = product(g, p.x_weight.t()).view_as(third)
        # M
        g = by_sum[:, None].expand_as(m).contiguous()
        g[ctx.first :] += by_phi_x
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
        return None, None, *of_points, to_pair, weight, bias, x_weight, x_bias, last
