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
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equiformer.kernels.edge_frame import Pairs, coupling
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.equiformer.tensor_product import Path, TensorProduct, paths
from neupol_cli.models.nn.activation import SIGMOID, SILU, SMOOTH_LEAKY_RELU
from neupol_cli.models.nn.harmonics import Constant
from neupol_cli.models.nn.linear import product


@dataclass(frozen=True)
class Term:
    """Part of D: a component of l1, times the path weights at ``place``."""

    path: Path
    place: slice

    @property
    def width(self) -> int:
        """Its channels."""
        return self.place.stop - self.place.start


class Group:
    """Components m and -m of D_l3: the terms that are not zero, side by side, K channels in all.

    Attributes:
        l3, m: which components.
        terms: what they are made of.
        columns: (K,) the rows of Lin's input of degree l3 that these are.
        couplings: (K,) the constants of the paths.
    """

    def __init__(self, l3: int, m: int, terms: list[Term], stack: dict[Path, int]) -> None:
        self.l3, self.m, self.terms = l3, m, terms
        self.width = sum(term.width for term in terms)
        self.columns = torch.cat([torch.arange(t.width) + stack[t.path] for t in terms])
        widths = torch.tensor([term.width for term in terms])
        couplings = torch.tensor([coupling(t.path, m) for t in terms], dtype=torch.float64)
        self.couplings = Constant(couplings.repeat_interleave(widths))


class Wiring(TensorProduct):
    """Where everything is: which numbers of M and w make which numbers of D.

    Args:
        muls: of M and G.
        orders: components -m..m with m < orders are made. If only scalars are read of the values,
            that is m = 0: what lies across the edge has no part in G . Y, nor have odd paths.
    """

    def __init__(self, muls: Muls, orders: int) -> None:
        every = paths(len(muls) - 1)
        super().__init__(muls, every if orders > 1 else [path for path in every if path.even])
        self.groups = [
            Group(l3, m, self._terms(l3, m), self.stacks[l3])
            for l3 in range(self.lmax + 1)
            for m in range(min(l3 + 1, orders))
        ]
        self.index = {(group.l3, group.m): k for k, group in enumerate(self.groups)}
        coincident = [torch.full((muls[p.l1],), float(p.l2 == 0)) for p in self.paths]
        self.coincident = Constant(torch.cat(coincident).double())

    def _terms(self, l3: int, m: int) -> list[Term]:
        return [
            Term(path, self.places[path])
            for path in self.paths
            if path.l3 == l3 and coupling(path, m)
        ]

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Lin's weights (out, in) a degree -> (out, K) a group, the couplings in them."""
        return [
            weights[group.l3].index_select(1, group.columns.to(weights[0].device))
            * group.couplings.like(weights[0])
            for group in self.groups
        ]


class Parts(NamedTuple):
    """What a layer hands in; P points, H half edges, k radial features.

    source, target: (P, dim) with components before channels; radial: (H, k); last: (weights, k);
    offset: (weights,); bias: (sum of muls + heads x a,); attention: (heads, a);
    value_bias: (values of m = 0,); matrices: (out, K) a group; values: (out, in) for each m;
    coincident: the same for edges of no length.
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
    coincident: Sequence[Tensor]


def path_weights(p: Parts, half: slice, wiring: Wiring, apart: bool) -> Tensor:
    """w(r) of some half edges; where two points coincide, Y_l is zero for l > 0."""
    weights = product(p.radial[half], p.last, p.offset)
    return weights if apart else weights * wiring.coincident.like(weights)


def plain(p: Parts, pairs: Pairs, wiring: Wiring, outs: Muls) -> list[Tensor]:
    """The messages, differentiable to any order by any of its inputs.

    Args:
        p, pairs, wiring: what the layer, the edges and the irreps say.
        outs: channels of the values of l = 0, 1, ...

    Returns:
        (E, heads) logits, then for each l (E, 2l + 1, out) values.
    """
    found = [_plain(p, pairs, wiring, outs, span, apart) for span, apart in pairs.spans()]
    return [torch.cat(column) for column in zip(*found, strict=True)] or _nothing(p, outs)


def _nothing(p: Parts, outs: Muls) -> list[Tensor]:
    """The messages of no edges."""
    empty = p.source[:0]
    shapes = [(0, 2 * degree + 1, out) for degree, out in enumerate(outs)]
    return [empty.new_empty(0, p.attention.shape[0]), *map(empty.new_empty, shapes)]


def _plain(
    p: Parts, pairs: Pairs, wiring: Wiring, outs: Muls, span: slice, apart: bool
) -> list[Tensor]:
    weights = path_weights(p, slice(None), wiring, apart).index_select(0, pairs.halves[span])
    both = p.source.index_select(0, pairs.senders[span])
    both = both + p.target.index_select(0, pairs.receivers[span])
    rotations = [rotation[span] for rotation in pairs.rotations]
    first, *rest = blocks(both, wiring.muls)
    turned = [first, *map(torch.bmm, rotations, rest)]
    mixed = mix(turned, weights, p, wiring)
    scalars, *gates, alpha = mixed[0][0].split([*wiring.muls, p.attention.numel()], 2)
    opened = [{0: SILU * functional.silu(scalars)}] + [
        {m: each[m] * (SIGMOID * torch.sigmoid(gate)) for m in each}
        for each, gate in zip(mixed[1:], gates, strict=True)
    ]
    values = spoken(opened, p.values if apart else p.coincident, p.value_bias, outs)
    back = [rotation.transpose(1, 2) for rotation in rotations]
    rest = [torch.bmm(r, v) for r, v in zip(back, values[1:], strict=False)]
    return [logits(alpha.squeeze(1), p.attention), values[0], *rest]


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
    turned: Sequence[Tensor], weights: Tensor, p: Parts, wiring: Wiring
) -> list[dict[int, Tensor]]:
    """D and Lin: (E, 2l + 1, mul) a degree, (E, weights) -> for l and m (E, 1 or 2, out)."""
    mixed: list[dict[int, Tensor]] = [{} for _ in turned]
    for group, matrix in zip(wiring.groups, p.matrices, strict=True):
        pieces = []
        for term in group.terms:
            both = rows(turned[term.path.l1], group.m)
            pieces.append((both if term.path.even else odd(both)) * weights[:, None, term.place])
        bias = p.bias if group.l3 == 0 else None
        mixed[group.l3][group.m] = product(torch.cat(pieces, 2), matrix, bias)
    return mixed


def spoken(
    opened: Sequence[dict[int, Tensor]], matrices: Sequence[Tensor], bias: Tensor, outs: Muls
) -> list[Tensor]:
    """G -> the values, still in the edges' frames: for each l (E, 2l + 1, out)."""
    by_degree: list[dict[int, Tensor]] = [{} for _ in outs]
    for m, matrix in enumerate(matrices):
        even = torch.cat([each[m] for each in opened[m:]], 2)
        if m == 0:
            made = product(even, matrix, bias)
        else:
            made = product(torch.cat((even, odd(even)), 2), matrix)
        for degree, piece in enumerate(made.split(list(outs[m:]), 2), m):
            by_degree[degree][m] = piece
    return [
        torch.cat(
            [each[m][:, :1] for m in reversed(range(1, len(each)))]
            + [each[0]]
            + [each[m][:, 1:] for m in range(1, len(each))],
            1,
        )
        for each in by_degree
    ]


def logits(alpha: Tensor, attention: Tensor) -> Tensor:
    """(E, heads a) -> (E, heads): a . f(alpha), f the smooth leaky ReLU of slope 0.2."""
    leaky = alpha * (0.2 + 0.8 * torch.sigmoid(alpha))
    return (leaky.unflatten(1, attention.shape) * (SMOOTH_LEAKY_RELU * attention)).sum(2)
