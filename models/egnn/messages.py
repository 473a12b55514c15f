"""EGNN's messages summed at their receivers, as one operation that works through tiles.

    m_ij = silu(W2 silu(a_i + b_j + C e_ij) + c2)
    out_i = sum_j f_ij sigmoid(w m_ij + w0) m_ij

Written with one PyTorch operation after another, every step of this walks an (edges, H) tensor
through memory, and twelve such tensors wait for the backward pass. Here a tile of edges goes
through all the steps while it is in the cache, and two tensors wait. Derivatives of derivatives
(training on forces) come from the plain formula, :func:`plain`, which the tests hold it against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.graph import segment_sum
from neupol_cli.models.nn.linear import product

# 1,024 edges of 128 floats are half a megabyte: two such tiles fit in a core's second cache.
TILE_NUMBERS = 1024 * 128


class Parts(NamedTuple):
    """What a layer hands in; E edges, P points, H features, s numbers a distance.

    received, sent: (P, H); encoded: (E, s); to_distance: (H, s); weight: (H, H); bias: (H,);
    attention: (1, H); attention_bias: (1,); envelope: (E, 1) or None.
    """

    received: Tensor
    sent: Tensor
    encoded: Tensor
    to_distance: Tensor
    weight: Tensor
    bias: Tensor
    attention: Tensor
    attention_bias: Tensor
    envelope: Tensor | None

    def of(self, edges: slice) -> Parts:
        """The same for some of the edges."""
        inside = None if self.envelope is None else self.envelope[edges]
        return self._replace(encoded=self.encoded[edges], envelope=inside)


def messages(p: Parts, receivers: Tensor, senders: Tensor) -> Tensor:
    """(E, H) f_ij sigmoid(w m_ij + w0) m_ij, one PyTorch operation after another."""
    # index_select made a tensor of its own, so the sums may go into it.
    both = p.received.index_select(0, receivers).add_(p.sent.index_select(0, senders))
    both = both + product(p.encoded, p.to_distance)
    m = functional.silu(product(functional.silu(both), p.weight, p.bias))
    m = torch.sigmoid(functional.linear(m, p.attention, p.attention_bias)) * m
    return m if p.envelope is None else m * p.envelope


def plain(p: Parts, receivers: Tensor, senders: Tensor) -> Tensor:
    """(P, H) the sum of :func:`messages` at their receivers."""
    return segment_sum(messages(p, receivers, senders), receivers, p.received.shape[0])


def summed_messages(p: Parts, receivers: Tensor, senders: Tensor) -> Tensor:
    """The same as :func:`plain`, in tiles. (P, H)"""
    return _Summed.apply(torch.is_grad_enabled(), receivers, senders, *p)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, recorded: bool, receivers: Tensor, senders: Tensor, *parts: Tensor | None
    ) -> Tensor:
        p = Parts(*parts)  # type: ignore[arg-type]
        edges, hidden = receivers.shape[0], p.weight.shape[0]
        # needs_input_grad is about the inputs alone: it is true of weights under no_grad, too.
        kept = recorded and any(ctx.needs_input_grad)
        first = p.received.new_empty(edges if kept else 0, hidden)
        second = torch.empty_like(first)
        out = torch.zeros_like(p.received)
        for tile in _tiles(edges, hidden, p.received.device):
            to, of = receivers[tile], senders[tile]
            both = p.received.index_select(0, to).add_(p.sent.index_select(0, of))
            both.add_(product(p.encoded[tile], p.to_distance))
            if kept:
                first[tile] = both
            m = product(functional.silu(both, inplace=True), p.weight, p.bias)
            if kept:
                second[tile] = m
            functional.silu(m, inplace=True)
            gate = functional.linear(m, p.attention, p.attention_bias).sigmoid_()
            if p.envelope is not None:
                gate.mul_(p.envelope[tile])
            out.index_add_(0, to, m.mul_(gate))
        ctx.save_for_backward(receivers, senders, first, second, *parts)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        receivers, senders, first, second, *parts = ctx.saved_tensors
        p = Parts(*parts)
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            found = _plain_gradients(p, receivers, senders, gradients[0], wanted)
            return None, None, None, *found
        needed = Parts(*(w and gradient_needed(part) for w, part in zip(wanted, p, strict=True)))  # type: ignore[arg-type]
        total = _gradients(p, receivers, senders, first, second, gradients[0], needed)
        kept = (each if need else None for each, need in zip(total, needed, strict=True))
        return None, None, None, *kept


def _tiles(edges: int, hidden: int, device: torch.device) -> Iterator[slice]:
    """Slices of edges; a GPU, which has bandwidth and hates small kernels, gets one."""
    step = max(edges, 1) if device.type != "cpu" else max(TILE_NUMBERS // hidden, 64)
    for start in range(0, edges, step):
        yield slice(start, min(start + step, edges))


def _plain_gradients(
    p: Parts, receivers: Tensor, senders: Tensor, gradient: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    inputs = [part for part, want in zip(p, wanted, strict=True) if want and part is not None]
    found = iter(
        torch.autograd.grad(plain(p, receivers, senders), inputs, gradient, create_graph=True)
    )
    return [next(found) if want else None for want in wanted]


def _gradients(
    p: Parts,
    receivers: Tensor,
    senders: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    needed: Parts,
) -> Parts:
    """The chain rule through one tile after another; right only for what is ``needed``: forces are
    after no derivative by a weight."""
    total = Parts(*(None if part is None else torch.zeros_like(part) for part in p))  # type: ignore[arg-type]
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
