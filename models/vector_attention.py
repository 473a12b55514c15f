"""The equivariant transformer's attention over neighbours, as one operation on pairs.

    r_ij  = silu(W e(r_ij) + b) = (dk, dv0, dv2, dv1)                      once a pair
    a_ij  = silu(sum over a head of q_i k_j dk_ij)                         per head
    X_i   = sum_j C_ij a_ij v0_j dv0_ij
    Y_i   = sum_j C_ij (w_j dv1_ij + u_ij v2_j dv2_ij),  w_j = V_j v1_j

(Tholke and de Fabritiis 2022, eqs. 5-10.) The vectors V_j meet v1_j before the sum and not in it,
because V_j (v1_j dv1_ij) = (V_j v1_j) dv1_ij: three products a point instead of a pair. Without
``smooth``, C multiplies X only, as in the paper.

Written with one PyTorch operation after another, every step walks tensors of (edges, 3 H) through
memory and most of them wait for the backward pass. Here a tile of pairs goes through all steps
while it is in the cache, for both directions, and nothing waits: the backward pass, and the one
behind it that training on forces needs, compute the tile again. Third derivatives come from
:func:`plain`, which the tests hold everything against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models import vector_attention_fused
from neupol_cli.models import vector_attention_tiles as tiles
from neupol_cli.models.asked import asked
from neupol_cli.models.linear import product
from neupol_cli.models.pairs import Pairs, Way
from neupol_cli.models.vector_attention_radial import Parts, Radial, Shape
from neupol_cli.models.vector_attention_tiles import Answers, Filter, Rates, Sender

# Pairs times features in a tile, a quarter of a megabyte a tensor: smaller tiles stay in smaller
# caches and larger ones need fewer calls (benchmarks/results/equivariant_transformer.md).
TILE_NUMBERS = 256 * 256


def plain(p: Parts, pairs: Pairs, shape: Shape) -> Tensor:
    """(P, 4, H) X, Y_x, Y_y, Y_z, one PyTorch operation after another."""
    out = p.query.new_zeros(p.query.shape[0], 4, p.query.shape[1])
    radial = functional.silu(product(p.encoded, p.weight, p.bias))  # (Q, 3 H or 4 H)
    for tile, ways in pairs.tiles(len(pairs)):
        for way in ways:
            rows = Rows(radial[tile], p.envelope[tile], p.directions[tile] * way.sign)
            m = message(p, rows, way, shape)
            out = out.index_add(0, way.receivers, m)
    return out


class Rows(NamedTuple):
    """A run of pairs: (T, 3 H or 4 H) radial, (T, 1) envelope, (T, 3) directions."""

    radial: Tensor
    envelope: Tensor
    directions: Tensor


def message(p: Parts, rows: Rows, way: Way, shape: Shape) -> Tensor:
    """(T, 4, H) what the receivers of one way are sent."""
    hidden = p.query.shape[1]
    k, v0, v2, *w = p.sent.index_select(0, way.senders).split(hidden, 1)
    dk, dv0, dv2, *dv1 = rows.radial.split(hidden, 1)
    c = rows.envelope
    a = (p.query.index_select(0, way.receivers) * k * dk).unflatten(1, (shape.heads, -1)).sum(2)
    a = functional.silu(a) * c  # (T, heads)
    x = ((v0 * dv0).unflatten(1, (shape.heads, -1)) * a[:, :, None]).flatten(1)
    t2 = v2 * dv2 * c if shape.smooth else v2 * dv2
    y = t2[:, None] * rows.directions[:, :, None]  # (T, 3, H)
    if w:
        t1 = dv1[0] * c if shape.smooth else dv1[0]
        y = y + torch.stack(w, 1) * t1[:, None]
    return torch.cat((x[:, None], y), 1)


def attention(p: Parts, pairs: Pairs, shape: Shape) -> Tensor:
    """The same as :func:`plain`, in tiles. (P, 4, H)"""
    return _Attention.apply(pairs, shape, *p)


class _Attention(torch.autograd.Function):
    """The sum; its derivative is :class:`_Gradient`."""

    @staticmethod
    def forward(ctx: Any, pairs: Pairs, shape: Shape, *parts: Tensor) -> Tensor:
        ctx.pairs, ctx.shape = pairs, shape
        ctx.save_for_backward(*parts)
        p = Parts(*parts)
        library = vector_attention_fused.library(p.query, shape)
        if library is not None:
            return vector_attention_fused.sums(library, p, pairs, shape)
        hidden = p.query.shape[1]
        out = p.query.new_zeros(p.query.shape[0], 4, hidden)
        for tile, ways in pairs.tiles(_tile_size(p)):
            f = Filter.of(Radial.filters(p, tile, shape), hidden)
            for way in ways:
                q, s, u = _gathered(p, tile, way)
                out.index_add_(0, way.receivers, tiles.messages(q, s, f, u, shape.heads))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        answers = _Gradient.apply(ctx.pairs, ctx.shape, _asked(ctx, 2), gradients[0], *parts)
        return None, None, *answers


class _Gradient(torch.autograd.Function):
    """The derivative of sum(gradient * attention) by every part that somebody asks for."""

    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, shape: Shape, wanted: Parts, gradient: Tensor, *parts: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.pairs, ctx.shape = pairs, shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, *parts)
        p = Parts(*parts)
        library = vector_attention_fused.library(p.query, shape)
        if library is not None:
            total = vector_attention_fused.first(library, p, pairs, shape, gradient, wanted)
            return _chosen(total, wanted)
        hidden = p.query.shape[1]
        total = Parts(*(torch.zeros_like(part) for part in parts))
        for tile, ways in pairs.tiles(_tile_size(p)):
            r = Radial.of(p, tile, shape, keeps_value=bool(wanted.envelope))
            f, df_rows = Filter.of(r.filter, hidden), torch.zeros_like(r.filter)
            df = Filter.of(df_rows, hidden)
            for way in ways:
                q, s, u = _gathered(p, tile, way)
                g = gradient.index_select(0, way.receivers)
                ds_rows = g.new_empty(g.shape[0], p.sent.shape[1])
                to = Answers(Sender.of(ds_rows, hidden), df, df)
                by_q, t2 = tiles.first(q, s, f, u, g, shape.heads, to)
                total.query.index_add_(0, way.receivers, by_q)
                total.sent.index_add_(0, way.senders, ds_rows)
                if wanted.directions:
                    total.directions[tile].add_(tiles.turning(g, t2), alpha=way.sign)
            r.first(p, tile, df_rows, wanted, total)
        return _chosen(total, wanted)

    @staticmethod
    def backward(ctx: Any, *rates: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, *parts = ctx.saved_tensors
        p, t = Parts(*parts), Parts(*rates)  # type: ignore[arg-type]
        if torch.is_grad_enabled() or t.weight is not None or t.bias is not None:
            answers = _plain_second(p, t, ctx.pairs, ctx.shape, gradient)
        else:
            still = (torch.zeros_like(a) if b is None else b for a, b in zip(p, t, strict=True))
            answers = _second(p, Parts(*still), ctx.pairs, ctx.shape, gradient, _asked(ctx, 4))
        return None, None, None, *answers


def _second(
    p: Parts, t: Parts, pairs: Pairs, shape: Shape, gradient: Tensor, wanted: Parts
) -> list[Tensor | None]:
    """The derivative of :class:`_Gradient`'s answers times ``t``: by the gradient, by the parts."""
    library = vector_attention_fused.library(p.query, shape)
    if library is not None:
        by, total = vector_attention_fused.second(library, p, t, pairs, shape, gradient, wanted)
        return [by, *_chosen(total, wanted)]
    hidden, heads = p.query.shape[1], shape.heads
    by_gradient = torch.zeros_like(gradient)
    total = Parts(*(torch.zeros_like(part) for part in p))
    for tile, ways in pairs.tiles(_tile_size(p)):
        r = Radial.of(p, tile, shape)
        moving = r.moving(p, t, tile)
        f, f_t = Filter.of(r.filter, hidden), Filter.of(moving.filter, hidden)
        rows, rows1 = torch.zeros_like(r.filter), torch.zeros_like(r.filter)
        df, df1 = Filter.of(rows, hidden), Filter.of(rows1, hidden)
        for way in ways:
            q, s, u = _gathered(p, tile, way)
            q_t, s_t, u_t = _gathered(t, tile, way)
            g = gradient.index_select(0, way.receivers)
            ds_rows = g.new_empty(g.shape[0], p.sent.shape[1])
            to, rates = Answers(Sender.of(ds_rows, hidden), df, df1), Rates(q_t, s_t, f_t, u_t)
            by_q, by_g, t2_t = tiles.second(q, s, f, u, g, rates, heads, to)
            by_gradient.index_add_(0, way.receivers, by_g)
            total.query.index_add_(0, way.receivers, by_q)
            total.sent.index_add_(0, way.senders, ds_rows)
            if wanted.directions:
                total.directions[tile].add_(tiles.turning(g, t2_t), alpha=way.sign)
        r.second(p, t, tile, moving, rows, rows1, wanted, total)
    return [by_gradient, *_chosen(total, wanted)]


def _plain_second(
    p: Parts, t: Parts, pairs: Pairs, shape: Shape, gradient: Tensor
) -> list[Tensor | None]:
    """The same through the plain formula: slow, differentiable further."""
    inputs = [gradient, *p]
    known = [k for k, part in enumerate(inputs) if part.requires_grad]
    with torch.enable_grad():
        out = plain(p, pairs, shape)
        asked_for = [k for k, rate in enumerate(t, start=1) if rate is not None]
        firsts = torch.autograd.grad(
            out, [inputs[k] for k in asked_for], gradient, create_graph=True
        )
        rates = [t[k - 1] for k in asked_for]
        found = torch.autograd.grad(
            firsts,
            [inputs[k] for k in known],
            rates,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    answers: list[Tensor | None] = [None] * len(inputs)
    for k, value in zip(known, found, strict=True):
        answers[k] = value
    return answers


def _gathered(p: Parts, tile: slice, way: Way) -> tuple[Tensor, Sender, Tensor]:
    """q of the receivers, what the senders send, and the way's directions."""
    q = p.query.index_select(0, way.receivers)
    s = Sender.of(p.sent.index_select(0, way.senders), p.query.shape[1])
    return q, s, p.directions[tile] * way.sign


def _tile_size(p: Parts) -> int:
    """Pairs in a tile; a GPU, which has bandwidth and hates small kernels, takes all at once."""
    if p.query.device.type != "cpu":
        return max(p.encoded.shape[0], 1)
    return max(TILE_NUMBERS // p.query.shape[1], 16)


def _asked(ctx: Any, skip: int) -> Parts:
    """For each part, whether the backward pass under way wants its derivative."""
    parts = ctx.saved_tensors[-len(Parts._fields) :]
    needed = ctx.needs_input_grad[skip:]
    return Parts(*(n and asked(part) for n, part in zip(needed, parts, strict=True)))  # type: ignore[arg-type]


def _chosen(total: Parts, wanted: Parts) -> tuple[Tensor | None, ...]:
    return tuple(part if want else None for part, want in zip(total, wanted, strict=True))
