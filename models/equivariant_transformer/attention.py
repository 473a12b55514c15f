"""What a layer of the equivariant transformer computes between its linear maps, in plain PyTorch.

Attention (Tholke and de Fabritiis 2022, eqs. 5-10):

    (dk, dv0, dv2, dv1)_ij = silu(L e(r_ij))                               once a pair
    a_ij  = silu(sum over a head of q_i k_j dk_ij)                         per head
    X_i   = sum_j a_ij v0_j dv0_ij C_ij
    Y_i   = sum_j (V_j v1_j dv1_ij + u_ij v2_j dv2_ij) C_ij

t0, t1, t2 of the published code are v0 dv0, v1 dv1 and v2 dv2. V_j (v1_j dv1_ij) = (V_j v1_j)
dv1_ij = w_j dv1_ij: the vectors meet v1 before the sum, three products a point instead of a pair.
Without ``vector_cutoff``, C multiplies X only, as in the paper.

The update (eqs. 11-12):

    s += <w1, w2> o2 + o3,   V += w3 o1 + Y

Between layers a state is (P, 4 H): H scalars, then H vectors component by component, (3, H), as
matrix products want them.

kernels/ has faster versions of the attention, which the tests hold against this one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.nn.linear import product
from neupol_cli.models.nn.unique_edges import EdgeDirection, UniqueEdges


class MessageInputs(NamedTuple):
    """What a layer's messages are made of; P points, Q unique edges, H features, K radial numbers.

    Attributes:
        points: (P, 4 H) q, k, v0, v2.
        vectors: (P, 3, H) w = V v1, or (P, 0, H) in the first layer, where V is zero.
        encoded: (Q, K) e.
        weight: (4 H, K) rows of dk, dv0, dv2, dv1; in the first layer (3 H, K), without dv1.
        bias: as many.
        envelope: (Q, 1) C.
        directions: (Q, 3) u, from receiver to sender; zero for self loops.
    """

    points: Tensor
    vectors: Tensor
    encoded: Tensor
    weight: Tensor
    bias: Tensor
    envelope: Tensor
    directions: Tensor


class AttentionShape(NamedTuple):
    """How to read the inputs: number of heads, and whether C multiplies Y too."""

    heads: int
    vector_cutoff: bool


class EdgeFilters(NamedTuple):
    """T unique edges: (T, 3 H or 4 H) dk, dv0, dv2, dv1; (T, 1) envelope; (T, 3) directions."""

    radial: Tensor
    envelope: Tensor
    directions: Tensor


def attention(
    inputs: MessageInputs, edges: UniqueEdges, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    """X and Y: what every point receives from its neighbours and from itself.

    Args:
        inputs: see :class:`MessageInputs`.
        edges: Q unique edges, self loops included.
        shape: heads and cutoff.

    Returns:
        (P, H) X and (P, 3, H) Y.
    """
    points, hidden = inputs.points.shape[0], inputs.points.shape[1] // 4
    x, y = inputs.points.new_zeros(points, hidden), inputs.points.new_zeros(points, 3, hidden)
    radial = functional.silu(product(inputs.encoded, inputs.weight, inputs.bias))  # (Q, 4 H)
    for tile, to in edges.directions():
        u = inputs.directions[tile] * to.sign
        filters = EdgeFilters(radial[tile], inputs.envelope[tile], u)
        sent_x, sent_y = message(inputs, filters, to, shape)
        x, y = x.index_add(0, to.receivers, sent_x), y.index_add(0, to.receivers, sent_y)
    return x, y


def message(
    inputs: MessageInputs, filters: EdgeFilters, to: EdgeDirection, shape: AttentionShape
) -> tuple[Tensor, Tensor]:
    """The terms of X (T, H) and Y (T, 3, H) that T edges carry to ``to.receivers``."""
    hidden, heads = inputs.points.shape[1] // 4, (shape.heads, -1)
    q = inputs.points[:, :hidden].index_select(0, to.receivers)  # (T, H)
    k, v0, v2 = inputs.points[:, hidden:].index_select(0, to.senders).split(hidden, 1)
    dk, dv0, dv2, *dv1 = filters.radial.split(hidden, 1)
    c, u = filters.envelope, filters.directions
    c_y = c if shape.vector_cutoff else 1.0
    a = functional.silu((q * k * dk).unflatten(1, heads).sum(2))  # (T, heads)
    x = ((v0 * dv0 * c).unflatten(1, heads) * a[:, :, None]).flatten(1)
    y = u[:, :, None] * (v2 * dv2 * c_y)[:, None]  # (T, 3, H)
    if dv1:
        w = inputs.vectors.index_select(0, to.senders)  # (T, 3, H)
        y = y + w * (dv1[0] * c_y)[:, None]
    return x, y


def unpacked(state: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 4 H) -> scalars (P, H), vectors (P, 3, H)."""
    hidden = state.shape[1] // 4
    s, v = state.split((hidden, 3 * hidden), 1)
    return s, v.unflatten(1, (3, hidden))


def packed(s: Tensor, v: Tensor) -> Tensor:
    """Scalars (P, H), vectors (P, 3, H) -> (P, 4 H)."""
    return torch.cat((s, v.flatten(1)), 1)


def scaled(v: Tensor, f: Tensor) -> Tensor:
    """(P, 3, H) vectors times (P, H) factors."""
    return v * f[:, None]


def updated(state: Tensor, o: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The next state (P, 4 H).

    Args:
        state: (P, 4 H) s and V.
        o: (P, 3 H) o1, o2, o3.
        w: (P, 3, 3 H) w1, w2, w3 of each component.
        y: (P, 3, H) Y.
    """
    o1, o2, o3 = o.chunk(3, 1)
    w1, w2, w3 = w.chunk(3, 2)
    return state + packed((w1 * w2).sum(1) * o2 + o3, w3 * o1[:, None] + y)
