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

from neupol_cli.models.equivariant_transformer.kernels import attention_compiled as compiled
from neupol_cli.models.equivariant_transformer.kernels import attention_tiles as tiles
from neupol_cli.models.equivariant_transformer.kernels.attention_radial import (
    Gradient,
    Parts,
    Radial,
    Shape,
)
from neupol_cli.models.equivariant_transformer.kernels.attention_tiles import (
    Answers,
    Filter,
    Rates,
    Sender,
)
from neupol_cli.models.equivariant_transformer.pairs import Pairs, Way
from neupol_cli.models.equivariant_transformer.update import fresh
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.linear import product

# Pairs times features in a tile, a quarter of a megabyte a tensor: smaller tiles stay in smaller
# caches and larger ones need fewer calls (benchmarks/results/equivariant_transformer.md).
TILE_NUMBERS = 256 * 256


def plain(p: Parts, pairs: Pairs, shape: Shape) -> tuple[Tensor, Tensor]:
    """X (P, H) and Y (P, 3, H), one PyTorch operation after another."""
    points, hidden = p.points.shape[0], p.points.shape[1] // 4
    x, y = p.points.new_zeros(points, hidden), p.points.new_zeros(points, 3, hidden)
    radial = functional.silu(product(p.encoded, p.weight, p.bias))  # (Q, 3 H or 4 H)
    for tile, ways in pairs.tiles(len(pairs)):
        for way in ways:
            rows = Rows(radial[tile], p.envelope[tile], p.directions[tile] * way.sign)
            sent_x, sent_y = message(p, rows, way, shape)
            x, y = x.index_add(0, way.receivers, sent_x), y.index_add(0, way.receivers, sent_y)
    return x, y


class Rows(NamedTuple):
    """A run of pairs: (T, 3 H or 4 H) radial, (T, 1) envelope, (T, 3) directions."""

    radial: Tensor
    envelope: Tensor
    directions: Tensor


def message(p: Parts, rows: Rows, way: Way, shape: Shape) -> tuple[Tensor, Tensor]:
    """(T, H) and (T, 3, H) what the receivers of one way are sent."""
    hidden = p.points.shape[1] // 4
    q = p.points[:, :hidden].index_select(0, way.receivers)
    k, v0, v2 = p.points[:, hidden:].index_select(0, way.senders).split(hidden, 1)
    dk, dv0, dv2, *dv1 = rows.radial.split(hidden, 1)
    c = rows.envelope
    a = functional.silu((q * k * dk).unflatten(1, (shape.heads, -1)).sum(2)) * c  # (T, heads)
    x = ((v0 * dv0).unflatten(1, (shape.heads, -1)) * a[:, :, None]).flatten(1)
    t2 = v2 * dv2 * c if shape.smooth else v2 * dv2
    y = t2[:, None] * rows.directions[:, :, None]  # (T, 3, H)
    if dv1:
        t1 = dv1[0] * c if shape.smooth else dv1[0]
        y = y + p.vectors.index_select(0, way.senders) * t1[:, None]
    return x, y


def attention(p: Parts, pairs: Pairs, shape: Shape) -> tuple[Tensor, Tensor]:
    """The same as :func:`plain`, in tiles."""
    return _Attention.apply(pairs, shape, *p)


class _Attention(torch.autograd.Function):
    """The sums; their derivative is :class:`_Gradient`."""

    @staticmethod
    def forward(ctx: Any, pairs: Pairs, shape: Shape, *parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.pairs, ctx.shape = pairs, shape
        ctx.save_for_backward(*parts)
        p = Parts(*parts)
        library = compiled.library(p.points, shape)
        if library is not None:
            return compiled.sums(library, p, pairs, shape)
        return _sums(p, pairs, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        answers = _Gradient.apply(
            ctx.pairs, ctx.shape, _gradients_needed(ctx, 2), *gradients, *parts
        )
        return None, None, *answers


class _Gradient(torch.autograd.Function):
    """The derivative of sum(gradient * attention) by every part that somebody asks for."""

    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, shape: Shape, wanted: Parts, *inputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.pairs, ctx.shape = pairs, shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        by_x, by_y, *parts = inputs
        p = Parts(*parts)
        library = compiled.library(p.points, shape)
        if library is not None:
            total = compiled.first(library, p, pairs, shape, (by_x, by_y), wanted)
        else:
            total = _first(p, pairs, shape, _together((by_x, by_y)), wanted)
        return _chosen(total, wanted)

    @staticmethod
    def backward(ctx: Any, *rates: Tensor | None) -> tuple[Tensor | None, ...]:
        by_x, by_y, *parts = ctx.saved_tensors
        p, t, g = Parts(*parts), Parts(*rates), (by_x, by_y)  # type: ignore[arg-type]
        if torch.is_grad_enabled() or t.weight is not None or t.bias is not None:
            return None, None, None, *_plain_second(p, t, ctx.pairs, ctx.shape, g)
        t = Parts(*(torch.zeros_like(a) if b is None else b for a, b in zip(p, t, strict=True)))
        wanted = _gradients_needed(ctx, 5)
        library = compiled.library(p.points, ctx.shape)
        if library is not None:
            by, total = compiled.second(library, p, t, ctx.pairs, ctx.shape, g, wanted)
        else:
            by, total = _second(p, t, ctx.pairs, ctx.shape, _together(g), wanted)
        return None, None, None, *by, *_chosen(total, wanted)


def _sums(p: Parts, pairs: Pairs, shape: Shape) -> tuple[Tensor, Tensor]:
    hidden = p.points.shape[1] // 4
    out = p.points.new_zeros(p.points.shape[0], 4, hidden)
    for tile, ways in pairs.tiles(_tile_size(p)):
        f = Filter.of(Radial.filters(p, tile, shape), hidden)
        for way in ways:
            q, s, u = _gathered(p, tile, way)
            out.index_add_(0, way.receivers, tiles.messages(q, s, f, u, shape.heads))
    return _apart(out)


def _first(p: Parts, pairs: Pairs, shape: Shape, gradient: Tensor, wanted: Parts) -> Parts:
    """The derivatives of sum(gradient (P, 4, H) * attention) that are wanted."""
    hidden = p.points.shape[1] // 4
    total = Parts(*(torch.zeros_like(part) for part in p))
    for tile, ways in pairs.tiles(_tile_size(p)):
        r = Radial.of(p, tile, shape, keeps_value=bool(wanted.envelope))
        f, df_rows = Filter.of(r.filter, hidden), torch.zeros_like(r.filter)
        df = Filter.of(df_rows, hidden)
        for way in ways:
            q, s, u = _gathered(p, tile, way)
            g = gradient.index_select(0, way.receivers)
            to = Answers(_empty_like(s), df, df)
            by_q, t2 = tiles.first(q, s, f, u, g, shape.heads, to)
            _add(total, way, by_q, to.s)
            if wanted.directions:
                total.directions[tile].add_(tiles.turning(g, t2), alpha=way.sign)
        r.first(p, tile, df_rows, wanted, total)
    return total


def _second(
    p: Parts, t: Parts, pairs: Pairs, shape: Shape, gradient: Tensor, wanted: Parts
) -> tuple[Gradient, Parts]:
    """The derivative of :func:`_first`'s answers times ``t``: by the gradient, by the parts."""
    hidden, heads = p.points.shape[1] // 4, shape.heads
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
            to, rates = Answers(_empty_like(s), df, df1), Rates(q_t, s_t, f_t, u_t)
            by_q, by_g, t2_t = tiles.second(q, s, f, u, g, rates, heads, to)
            by_gradient.index_add_(0, way.receivers, by_g)
            _add(total, way, by_q, to.s)
            if wanted.directions:
                total.directions[tile].add_(tiles.turning(g, t2_t), alpha=way.sign)
        r.second(p, t, tile, moving, rows, rows1, wanted, total)
    return _apart(by_gradient), total


def _plain_second(
    p: Parts, t: Parts, pairs: Pairs, shape: Shape, gradient: Gradient
) -> list[Tensor | None]:
    """The same through the plain formula: slow, differentiable further."""
    with torch.enable_grad():
        inputs = [fresh(part) if part.requires_grad else part for part in (*gradient, *p)]
        known = [k for k, part in enumerate(inputs) if part.requires_grad]
        asked_for = [k for k, rate in enumerate(t, start=2) if rate is not None]
        rates = [t[k - 2] for k in asked_for]
        firsts = torch.autograd.grad(
            plain(Parts(*inputs[2:]), pairs, shape),
            [inputs[k] for k in asked_for],
            inputs[:2],
            create_graph=True,
        )
        found = torch.autograd.grad(
            firsts, [inputs[k] for k in known], rates, create_graph=True, allow_unused=True
        )
    answers: list[Tensor | None] = [None] * len(inputs)
    for k, value in zip(known, found, strict=True):
        answers[k] = value
    return answers


def _gathered(p: Parts, tile: slice, way: Way) -> tuple[Tensor, Sender, Tensor]:
    """q of the receivers, what the senders send, and the way's directions."""
    hidden = p.points.shape[1] // 4
    q = p.points[:, :hidden].index_select(0, way.receivers)
    three = p.points[:, hidden:].index_select(0, way.senders)
    w = p.vectors.index_select(0, way.senders) if p.vectors.numel() else None
    return q, Sender(three, w), p.directions[tile] * way.sign


def _empty_like(s: Sender) -> Sender:
    return Sender(torch.empty_like(s.three), None if s.w is None else torch.empty_like(s.w))


def _add(total: Parts, way: Way, by_q: Tensor, by_s: Sender) -> None:
    """Adds derivatives by what receivers and senders gave to the points' own."""
    hidden = by_q.shape[1]
    total.points[:, :hidden].index_add_(0, way.receivers, by_q)
    total.points[:, hidden:].index_add_(0, way.senders, by_s.three)
    if by_s.w is not None:
        total.vectors.index_add_(0, way.senders, by_s.w)


def _together(g: Gradient) -> Tensor:
    """(P, 4, H) x, y_x, y_y, y_z."""
    return torch.cat((g[0][:, None], g[1]), 1)


def _apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse."""
    return rows[:, 0].contiguous(), rows[:, 1:].contiguous()


def _tile_size(p: Parts) -> int:
    """Pairs in a tile; a GPU, which has bandwidth and hates small kernels, takes all at once."""
    if p.points.device.type != "cpu":
        return max(p.encoded.shape[0], 1)
    return max(TILE_NUMBERS // (p.points.shape[1] // 4), 16)


def _gradients_needed(ctx: Any, skip: int) -> Parts:
    """For each part, whether the backward pass under way wants its derivative."""
    parts = ctx.saved_tensors[-len(Parts._fields) :]
    needed = ctx.needs_input_grad[skip:]
    return Parts(*(n and gradient_needed(part) for n, part in zip(needed, parts, strict=True)))  # type: ignore[arg-type]


def _chosen(total: Parts, wanted: Parts) -> tuple[Tensor | None, ...]:
    return tuple(part if want else None for part, want in zip(total, wanted, strict=True))
