"""Equiformer's nonlinear messages in each edge's own frame: equal to ``Attention.formula``.

    M = source_j + target_i                              one feature list an edge
    D = M x Y(n_ij), path by path, times w(r_ij)          the depthwise tensor product
    G = Gate(Lin(D)),  logits = a . f(Lin_alpha(D_0))
    values = Lin(G x Y(n_ij)), path weights that no edge changes

In the frame of edge_frame.py a path is one constant a component. For D the constants go
into Lin, and 39 % of D is zero and is not there. For the values the paths to one l3 add up to one
matrix for each m: what were 3,136 numbers an edge are none. Only then are the values turned back.

This file says it with one PyTorch operation after another, differentiable to any order; tiles.py
does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equiformer.attention import attention_logits
from neupol_cli.models.equiformer.kernels.edge_frame import FramedEdges
from neupol_cli.models.equiformer.kernels.frame_instructions import FrameInstructions
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.nn.activation import SIGMOID, SILU
from neupol_cli.models.nn.linear import product


class MessageInputs(NamedTuple):
    """What a layer hands in; P points, H half edges, k radial features.

    source, target: (P, dim) with components before channels; radial: (H, k); last: (weights, k);
    offset: (weights,); bias: (sum of muls + heads x a,); attention: (heads, a);
    value_bias: (values of m = 0,); matrices: (out, K) a group; values: (out, in) for each m.
    """

    source: Tensor
    target: Tensor
    radial: Tensor
    last: Tensor
    offset: Tensor
    bias: Tensor
    attention: Tensor
    value_bias: Tensor
    matrices: Sequence[Tensor]
    values: Sequence[Tensor]


def plain(
    p: MessageInputs, framed_edges: FramedEdges, instructions: FrameInstructions, outs: Muls
) -> list[Tensor]:
    """The messages, differentiable to any order by any of its inputs.

    Args:
        p, framed_edges, instructions: what the layer, the edges and the irreps say.
        outs: channels of the values of l = 0, 1, ...

    Returns:
        (E, heads) logits, then for each l (E, 2l + 1, out) values.
    """
    weights = product(p.radial, p.last, p.offset).index_select(0, framed_edges.halves)
    both = p.source.index_select(0, framed_edges.senders)
    both = both + p.target.index_select(0, framed_edges.receivers)
    rotations = framed_edges.rotations
    first, *rest = blocks(both, instructions.muls)
    turned = [first, *map(torch.bmm, rotations, rest)]
    mixed = mix(turned, weights, p, instructions)
    scalars, *gates, alpha = mixed[0][0].split([*instructions.muls, p.attention.numel()], 2)
    opened = [{0: SILU * functional.silu(scalars)}] + [
        {m: degree_values[m] * (SIGMOID * torch.sigmoid(gate)) for m in degree_values}
        for degree_values, gate in zip(mixed[1:], gates, strict=True)
    ]
    values = framed_values(opened, p.values, p.value_bias, outs)
    back = [rotation.transpose(1, 2) for rotation in rotations]
    rest = [torch.bmm(r, v) for r, v in zip(back, values[1:], strict=False)]
    return [attention_logits(alpha.squeeze(1), p.attention), values[0], *rest]


def blocks(both: Tensor, muls: Muls) -> list[Tensor]:
    """(E, dim) with components before channels -> (E, 2l + 1, mul) a degree."""
    pieces = both.split([mul * (2 * degree + 1) for degree, mul in enumerate(muls)], 1)
    return [
        piece.unflatten(1, (2 * degree + 1, mul))
        for degree, (piece, mul) in enumerate(zip(pieces, muls, strict=True))
    ]


def rows(features: Tensor, m: int) -> Tensor:
    """(..., 2l + 1, mul) -> (..., 1 or 2, mul): components -m and m."""
    degree = features.shape[-2] // 2
    if m == 0:
        return features.narrow(-2, degree, 1)
    return features[..., degree - m : degree + m + 1 : 2 * m, :]


def odd(both: Tensor) -> Tensor:
    """(..., 2, mul) components -m and m -> minus that of m, and that of -m: what odd paths read."""
    return torch.stack((-both[..., 1, :], both[..., 0, :]), -2)


def mix(
    turned: Sequence[Tensor], weights: Tensor, p: MessageInputs, instructions: FrameInstructions
) -> list[dict[int, Tensor]]:
    """D and Lin: (E, 2l + 1, mul) a degree, (E, weights) -> for l and m (E, 1 or 2, out)."""
    mixed: list[dict[int, Tensor]] = [{} for _ in turned]
    for group, matrix in zip(instructions.groups, p.matrices, strict=True):
        pieces = []
        for term in group.terms:
            both = rows(turned[term.path.l1], group.m)
            pieces.append((both if term.path.even else odd(both)) * weights[:, None, term.place])
        bias = p.bias if group.l3 == 0 else None
        mixed[group.l3][group.m] = product(torch.cat(pieces, 2), matrix, bias)
    return mixed


def framed_values(
    opened: Sequence[dict[int, Tensor]], matrices: Sequence[Tensor], bias: Tensor, outs: Muls
) -> list[Tensor]:
    """G -> the values, still in the edges' frames: for each l (E, 2l + 1, out)."""
    by_degree: list[dict[int, Tensor]] = [{} for _ in outs]
    for m, matrix in enumerate(matrices):
        even = torch.cat([rows[m] for rows in opened[m:]], 2)
        if m == 0:
            made = product(even, matrix, bias)
        else:
            made = product(torch.cat((even, odd(even)), 2), matrix)
        for degree, piece in enumerate(made.split(list(outs[m:]), 2), m):
            by_degree[degree][m] = piece
    return [
        torch.cat(
            [rows[m][:, :1] for m in reversed(range(1, len(rows)))]
            + [rows[0]]
            + [rows[m][:, 1:] for m in range(1, len(rows))],
            1,
        )
        for rows in by_degree
    ]
