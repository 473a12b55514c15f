"""EGNN's messages summed at their receivers, as one operation that works through tiles.

    z_ij = silu(a_i + b_j + C e_ij),   m_ij = silu(W z_ij + c)
    out_i = sum_j f_ij sigmoid(w m_ij + w0) m_ij

Written with one PyTorch operation after another, every step of this walks an (edges, H) tensor
through memory, and twelve such tensors wait for the backward pass. Here a tile of edges goes
through all the steps while it is in the cache, and two tensors wait. Derivatives of derivatives
(training on forces) come from the plain formula of messages.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.egnn import messages
from neupol_cli.models.egnn.messages import MessageInputs
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.linear import product

# 1,024 edges of 128 floats are half a megabyte: two such tiles fit in a core's second cache.
TILE_NUMBERS = 1024 * 128


def summed_messages(p: MessageInputs, receivers: Tensor, senders: Tensor) -> Tensor:
    """The function of the same name in messages.py, in tiles."""
    return _Summed.apply(torch.is_grad_enabled(), receivers, senders, *p)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, recorded: bool, receivers: Tensor, senders: Tensor, *inputs: Tensor | None
    ) -> Tensor:
        p = MessageInputs(*inputs)  # type: ignore[arg-type]
        edges, hidden = receivers.shape[0], p.weight.shape[0]
        # needs_input_grad is about the inputs alone: it is true of weights under no_grad, too.
        differentiated = recorded and any(ctx.needs_input_grad)
        first = p.received.new_empty(edges if differentiated else 0, hidden)
        second = torch.empty_like(first)
        out = torch.zeros_like(p.received)
        for tile in _tiles(edges, hidden, p.received.device):
            to, of = receivers[tile], senders[tile]
            both = p.received.index_select(0, to).add_(p.sent.index_select(0, of))
            both.add_(product(p.encoded[tile], p.to_distance))
            if differentiated:
                first[tile] = both
            m = product(functional.silu(both, inplace=True), p.weight, p.bias)
            if differentiated:
                second[tile] = m
            functional.silu(m, inplace=True)
            gate = functional.linear(m, p.attention, p.attention_bias).sigmoid_()
            if p.envelope is not None:
                gate.mul_(p.envelope[tile])
            out.index_add_(0, to, m.mul_(gate))
        ctx.save_for_backward(receivers, senders, first, second, *inputs)
        return out

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        receivers, senders, first, second, *inputs = ctx.saved_tensors
        p = MessageInputs(*inputs)
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient

            def formula(inputs: list[Tensor | None]) -> Tensor:
                p = MessageInputs(*inputs)  # type: ignore[arg-type]
                return messages.summed_messages(p, receivers, senders)

            return None, None, None, *recorded_gradients(formula, p, gradients, wanted)
        needed = MessageInputs(
            *(want and gradient_needed(x) for want, x in zip(wanted, p, strict=True))  # type: ignore[arg-type]
        )
        total = _gradients(p, receivers, senders, first, second, gradients[0], needed)
        by_inputs = (g if need else None for g, need in zip(total, needed, strict=True))
        return None, None, None, *by_inputs


def _tiles(edges: int, hidden: int, device: torch.device) -> Iterator[slice]:
    """Slices of edges; a GPU, which has bandwidth and hates small kernels, gets one."""
    step = max(edges, 1) if device.type != "cpu" else max(TILE_NUMBERS // hidden, 64)
    for start in range(0, edges, step):
        yield slice(start, min(start + step, edges))


def _gradients(
    p: MessageInputs,
    receivers: Tensor,
    senders: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    needed: MessageInputs,
) -> MessageInputs:
    """The chain rule through one tile after another; right only for what is ``needed``: forces are
    after no derivative by a weight."""
    total = MessageInputs(*(None if x is None else torch.zeros_like(x) for x in p))  # type: ignore[arg-type]
    edges, hidden = first.shape
    for tile in _tiles(edges, hidden, first.device):
        to, of = receivers[tile], senders[tile]
        m = functional.silu(second[tile])
        gate = functional.linear(m, p.attention, p.attention_bias).sigmoid_()  # (e, 1)
        g = gradient.index_select(0, to)
        dot = (g * m).sum(1, keepdim=True)  # (e, 1) by gate times envelope
        factor = gate
        if p.envelope is not None and total.envelope is not None:
            total.envelope[tile] = dot * gate
            dot = dot * p.envelope[tile]
            factor = gate * p.envelope[tile]
        dz = dot * gate * (1 - gate)
        if needed.attention:
            total.attention.addmm_(dz.t(), m)
        if needed.attention_bias:
            total.attention_bias.add_(dz.sum())
        g.mul_(factor).addcmul_(dz, p.attention)
        g = torch.ops.aten.silu_backward(g, second[tile])
        if needed.weight:
            total.weight.add_(product(g.t(), functional.silu(first[tile]).t()))
        if needed.bias:
            total.bias.add_(g.sum(0))
        g = torch.ops.aten.silu_backward(product(g, p.weight.t()), first[tile])
        total.received.index_add_(0, to, g)
        total.sent.index_add_(0, of, g)
        if needed.to_distance:
            total.to_distance.add_(product(g.t(), p.encoded[tile].t()))
        if needed.encoded:
            total.encoded[tile] = product(g, p.to_distance.t())
    return total
