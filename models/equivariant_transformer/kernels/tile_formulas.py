"""A tile of the equivariant transformer's attention: its sum, and its first and second derivative.

For one direction through T pairs, with q of the receiver, (k, v0, v2, w) of the sender, (dk, D0,
D2, D1) of the pair, the envelope in them already, and u the direction, the messages are

    z = sum over a head of q k dk,   x = silu(z) v0 D0,   y_c = w_c D1 + u_c v2 D2,   c = x, y, z

Let G be the sum of all messages times given numbers g. :func:`first` is the derivative of G by
every input. When the inputs move at given rates (named ``_t`` here, for tangent), G moves at a
rate too, and :func:`second` is the derivative of that rate by g and by every input: what training
on forces needs. Both are the chain rule by hand: a tile stays in the cache, and nothing is kept.

k, v0, v2 lie side by side in memory, and so do dk, D0, D2: what multiplies them one by one is one
operation, (k dk, v0 D0, v2 D2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Sender(NamedTuple):
    """three: (T, 3 H) k, v0, v2; w: (T, 3, H), or None in a layer without vectors."""

    three: Tensor
    w: Tensor | None


class Filter(NamedTuple):
    """three: (T, 3 H) dk, D0, D2; d1: (T, H), or None in a layer without vectors."""

    three: Tensor
    d1: Tensor | None

    @classmethod
    def of(cls, rows: Tensor, hidden: int) -> Filter:
        """Views of rows (T, 3 H) or (T, 4 H)."""
        if rows.shape[1] == 3 * hidden:
            return cls(rows, None)
        return cls(rows[:, : 3 * hidden], rows[:, 3 * hidden :])


class TileRates(NamedTuple):
    """How fast the inputs of a tile move: q (T, H), the sender's, the filter's, u (T, 3)."""

    q: Tensor
    s: Sender
    f: Filter
    u: Tensor


class TileDerivatives(NamedTuple):
    """Where derivatives go: ``s`` is written, the others are added to.

    f: by R; f1: of G itself by R, which :func:`second` makes too, since R of a pair moves as well.
    """

    s: Sender
    f: Filter
    f1: Filter


def by_head(values: Tensor, heads: int) -> Tensor:
    """(T, H) -> (T, heads, H / heads), a view."""
    return values.unflatten(1, (heads, -1))


def head_sum(values: Tensor, heads: int) -> Tensor:
    """(T, H) -> (T, heads, 1)."""
    return by_head(values, heads).sum(2, keepdim=True)


def times_head(values: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """(T, H) times (T, heads, 1) -> (T, H)."""
    heads = factor.shape[1]
    into = None if out is None else by_head(out, heads)
    return torch.mul(by_head(values, heads), factor, out=into).flatten(1)


def along(g: Tensor, u: Tensor, out: Tensor) -> Tensor:
    """sum_c g_c u_c: (T, 4, H), whose first of four is left out, and (T, 3) -> (T, H)."""
    torch.mul(g[:, 1], u[:, 0, None], out=out)
    return out.addcmul_(g[:, 2], u[:, 1, None]).addcmul_(g[:, 3], u[:, 2, None])


def turning(g: Tensor, t2: Tensor) -> Tensor:
    """(T, 3) sum over H of g_c t2, t2 = v2 D2: what a derivative by u comes to."""
    return (g[:, 1:] * t2[:, None]).sum(2)


def messages(q: Tensor, s: Sender, f: Filter, u: Tensor, heads: int) -> Tensor:
    """(T, 4, H) x, y_x, y_y, y_z."""
    kd, v, t2 = (s.three * f.three).split(q.shape[1], 1)
    out = q.new_empty(q.shape[0], 4, q.shape[1])
    times_head(v, functional.silu(head_sum(kd.mul_(q), heads)), out=out[:, 0])
    torch.mul(t2[:, None], u[:, :, None], out=out[:, 1:])
    if s.w is not None and f.d1 is not None:
        out[:, 1:].addcmul_(s.w, f.d1[:, None])
    return out


def first(
    q: Tensor, s: Sender, f: Filter, u: Tensor, g: Tensor, heads: int, to: TileDerivatives
) -> tuple[Tensor, Tensor]:
    """The derivative of G, for g (T, 4, H): by ``s`` and by ``f`` where ``to`` says.

    Returns:
        That by q, (T, H), and t2, (T, H), of which :func:`turning` makes that by u.
    """
    hidden = q.shape[1]
    kd, v, t2 = (s.three * f.three).split(hidden, 1)
    z, beta = head_sum(q * kd, heads), head_sum(g[:, 0] * v, heads)
    gamma = silu_1(beta, z)
    by = s.three.new_empty(s.three.shape)  # (T, 3 H): by k dk, v0 D0, v2 D2
    times_head(q, gamma, out=by[:, :hidden])
    times_head(g[:, 0], functional.silu(z), out=by[:, hidden : 2 * hidden])
    along(g, u, out=by[:, 2 * hidden :])
    torch.mul(by, f.three, out=to.s.three)
    to.f.three.addcmul_(by, s.three)
    if s.w is not None and f.d1 is not None and to.s.w is not None and to.f.d1 is not None:
        torch.mul(g[:, 1:], f.d1[:, None], out=to.s.w)
        add_dot(to.f.d1, g, s.w)
    return times_head(kd, gamma), t2


def second(
    q: Tensor,
    s: Sender,
    f: Filter,
    u: Tensor,
    g: Tensor,
    t: TileRates,
    heads: int,
    to: TileDerivatives,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivative of G's rate when the inputs move at the rates ``t``; see :func:`first`.

    Returns:
        That by q, (T, H); that by g, (T, 4, H); the rate of t2, (T, H), for :func:`turning`.
    """
    hidden = q.shape[1]
    kd, v, t2 = (s.three * f.three).split(hidden, 1)
    kd_t, v_t, t2_t = (t.s.three * f.three).addcmul_(s.three, t.f.three).split(hidden, 1)
    z, z_t = head_sum(q * kd, heads), head_sum((t.q * kd).addcmul_(q, kd_t), heads)
    beta, beta_t = head_sum(g[:, 0] * v, heads), head_sum(g[:, 0] * v_t, heads)
    a, a_t, gamma = functional.silu(z), silu_1(z_t, z), silu_1(beta, z)
    gamma_t = silu_1(beta_t, z).addcmul_(silu_2(z), beta * z_t)

    by, by_t = s.three.new_empty(s.three.shape), s.three.new_empty(s.three.shape)
    times_head(q, gamma, out=by[:, :hidden])
    torch.add(times_head(q, gamma_t), times_head(t.q, gamma), out=by_t[:, :hidden])
    times_head(g[:, 0], a, out=by[:, hidden : 2 * hidden])
    times_head(g[:, 0], a_t, out=by_t[:, hidden : 2 * hidden])
    along(g, u, out=by[:, 2 * hidden :])
    along(g, t.u, out=by_t[:, 2 * hidden :])
    torch.mul(by_t, f.three, out=to.s.three)
    to.s.three.addcmul_(by, t.f.three)
    to.f.three.addcmul_(by_t, s.three).addcmul_(by, t.s.three)
    to.f1.three.addcmul_(by, s.three)

    by_g = torch.empty_like(g)
    torch.add(times_head(v, a_t), times_head(v_t, a), out=by_g[:, 0])
    torch.mul(t2[:, None], t.u[:, :, None], out=by_g[:, 1:])
    by_g[:, 1:].addcmul_(t2_t[:, None], u[:, :, None])
    second_by_w(s, f, g, t, to, by_g)
    return times_head(kd, gamma_t).add_(times_head(kd_t, gamma)), by_g, t2_t


def second_by_w(
    s: Sender, f: Filter, g: Tensor, t: TileRates, to: TileDerivatives, by_g: Tensor
) -> None:
    """The part of :func:`second` that a layer with vectors adds."""
    if s.w is None or f.d1 is None or t.s.w is None or t.f.d1 is None:
        return
    if to.s.w is not None and to.f.d1 is not None and to.f1.d1 is not None:
        torch.mul(g[:, 1:], t.f.d1[:, None], out=to.s.w)
        add_dot(to.f.d1, g, t.s.w)
        add_dot(to.f1.d1, g, s.w)
    by_g[:, 1:].addcmul_(t.s.w, f.d1[:, None]).addcmul_(s.w, t.f.d1[:, None])


def add_dot(total: Tensor, g: Tensor, w: Tensor) -> None:
    """total (T, H) += sum_c g_c w_c; g (T, 4, H), whose first of four is left out, w (T, 3, H)."""
    for c in range(3):
        total.addcmul_(g[:, c + 1], w[:, c])


def silu_1(g: Tensor, z: Tensor) -> Tensor:
    """g silu'(z)."""
    return torch.ops.aten.silu_backward(g, z)


def silu_2(z: Tensor) -> Tensor:
    """silu''(z) = s' (2 + z (1 - 2 s)), s = sigmoid(z), s' = s (1 - s)."""
    gate = torch.sigmoid(z)
    bend = torch.addcmul(gate, gate, gate, value=-1)
    return torch.addcmul(z, z, gate, value=-2).add_(2).mul_(bend)
