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
while it is in the cache, for both directions, and nothing waits: the backward pass computes the
tile again. Derivatives of derivatives come from :func:`plain`, which the tests hold it against.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.linear import product
from neupol_cli.models.pairs import Pairs, Way

# Pairs times features in a tile: its dozen tensors then fit in a core's second cache.
TILE_NUMBERS = 128 * 256


class Parts(NamedTuple):
    """What a layer hands in; P points, Q pairs, H features, K numbers a distance.

    query: (P, H) q. sent: (P, 3 H) k, v0, v2, or (P, 6 H) with w_x, w_y, w_z behind them.
    encoded: (Q, K) e. weight: (4 H, K) or, without w, (3 H, K) rows dk, dv0, dv2, dv1;
    bias: as many. envelope: (Q, 1) C. directions: (Q, 3) u, from first to second point.
    """

    query: Tensor
    sent: Tensor
    encoded: Tensor
    weight: Tensor
    bias: Tensor
    envelope: Tensor
    directions: Tensor


class Shape(NamedTuple):
    """How to read the parts: number of heads, and whether C multiplies Y too."""

    heads: int
    smooth: bool


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
