"""Equiformer's nonlinear messages and attention logits, one edge at a time.

    M = source_j + target_i                              one feature list an edge
    D = M x Y(n_ij), path by path, times w(r_ij)          the depthwise tensor product
    message = Gate(Lin(D)),  logits = a . f(Lin_alpha(D_0))

All in the edge's own frame (models/edge_frame.py), where a path has one constant a component:
the constants go into Lin, D is one product a number, components that are zero are not there
(61 % of D remains at lmax = 2), and an edge and its reverse read the same w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.edge_frame import Pairs, Path, paths
from neupol_cli.models.harmonics import Constant
from neupol_cli.models.linear import product
from neupol_cli.models.so3 import SIGMOID, SILU, Muls

# (E f(z)^2)^(-1/2) of the smooth leaky ReLU over normal z, as e3nn estimates it.
LEAKY = 1.531320475574866


@dataclass(frozen=True)
class Term:
    """Part of D: components of l1, times the weights ``place`` of a path."""

    path: Path
    place: slice
    width: int


class Group:
    """Components m and -m of D_l3: the terms that are not zero, side by side.

    Attributes:
        l3, m: which components.
        terms: what they are made of; their widths add up to K.
        columns: (K,) the rows of Lin's input of degree l3 that these are.
        couplings: (K,) the constants of the paths.
        signs: (K,) what a reversed edge multiplies them by, (-1)^l2.
    """

    def __init__(self, l3: int, m: int, terms: list[Term], stack: dict[Path, int]) -> None:
        self.l3, self.m, self.terms = l3, m, terms
        self.width = sum(term.width for term in terms)
        self.columns = torch.cat([torch.arange(term.width) + stack[term.path] for term in terms])
        self.couplings = Constant(_each(terms, [t.path.coupling(m) for t in terms]))
        self.signs = Constant(_each(terms, [(-1.0) ** t.path.l2 for t in terms]))

    @property
    def rows(self) -> list[int]:
        """The components of degree l3 in this group."""
        return [self.l3] if self.m == 0 else [self.l3 - self.m, self.l3 + self.m]


def _each(terms: Sequence[Term], values: Sequence[float]) -> Tensor:
    """(K,) the value of each term, once for each of its channels."""
    widths = torch.tensor([term.width for term in terms])
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(widths)


class Wiring:
    """Where everything is: which numbers of M and w make which numbers of D."""

    def __init__(self, muls: Muls) -> None:
        self.muls = muls
        lmax = len(muls) - 1
        self.paths = paths(lmax)
        self.places: dict[Path, slice] = {}
        stacks: list[dict[Path, int]] = [{} for _ in muls]
        self.widths = [0] * len(muls)  # of D_l3, all paths side by side
        at = 0
        for path in self.paths:
            width = muls[path.l1]
            self.places[path] = slice(at, at + width)
            stacks[path.l3][path] = self.widths[path.l3]
            self.widths[path.l3] += width
            at += width
        self.weights = at
        self.groups = [
            Group(l3, m, self._terms(l3, m), stacks[l3])
            for l3 in range(lmax + 1)
            for m in range(l3 + 1)
        ]
        coincident = [torch.full((muls[p.l1],), float(p.l2 == 0)) for p in self.paths]
        self.coincident = Constant(torch.cat(coincident).double())

    def _terms(self, l3: int, m: int) -> list[Term]:
        return [
            Term(path, self.places[path], self.muls[path.l1])
            for path in self.paths
            if path.l3 == l3 and path.coupling(m)
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
    matrices: (out, K) a group.
    """

    source: Tensor
    target: Tensor
    radial: Tensor
    last: Tensor
    offset: Tensor
    bias: Tensor
    attention: Tensor
    matrices: list[Tensor]


def path_weights(p: Parts, wiring: Wiring, apart: Tensor | None) -> Tensor:
    """(H, weights) w(r); where two points coincide, Y_l is zero for l > 0."""
    weights = product(p.radial, p.last, p.offset)
    if apart is None:
        return weights
    return torch.where(apart, weights, weights * wiring.coincident.like(weights))


def messages(p: Parts, pairs: Pairs, wiring: Wiring) -> tuple[Tensor, Tensor]:
    """(E, dim) messages, components before channels, and (E, heads) logits; in the pairs' order."""
    weights = path_weights(p, wiring, pairs.apart)
    half = weights.shape[0]
    reverse = [m * g.signs.like(m) for m, g in zip(p.matrices, wiring.groups, strict=True)]
    found = []
    for rows, matrices in ((slice(0, half), p.matrices), (slice(half, None), reverse)):
        to, of = pairs.receivers[rows], pairs.senders[rows]
        both = p.source.index_select(0, of) + p.target.index_select(0, to)
        count = both.shape[0]
        rotations = [rotation[:count] for rotation in pairs.rotations]
        turned = turn(both, rotations, wiring.muls)
        mixed = mix(turned, weights[:count], matrices, p.bias, wiring)
        found.append(activate(mixed, p.attention, rotations, wiring.muls))
    first, second = zip(*found, strict=True)
    return torch.cat(first), torch.cat(second)


def blocks(both: Tensor, muls: Muls) -> list[Tensor]:
    """(E, dim) with components before channels -> (E, 2l + 1, mul) a degree."""
    pieces = both.split([mul * (2 * degree + 1) for degree, mul in enumerate(muls)], 1)
    return [
        piece.unflatten(1, (2 * degree + 1, mul))
        for degree, (piece, mul) in enumerate(zip(pieces, muls, strict=True))
    ]


def turn(both: Tensor, rotations: Sequence[Tensor], muls: Muls) -> list[Tensor]:
    """(E, dim) -> (E, 2l + 1, mul) a degree, in the edges' frames."""
    first, *rest = blocks(both, muls)
    return [first, *map(torch.bmm, rotations, rest)]


def mix(
    turned: Sequence[Tensor],
    weights: Tensor,
    matrices: Sequence[Tensor],
    bias: Tensor,
    wiring: Wiring,
) -> list[Tensor]:
    """D and Lin: (E, 2l + 1, mul) a degree, (E, weights) -> (E, 2l + 1, out) a degree."""
    swapped = [odd(each) for each in turned]
    rows: list[dict[int, Tensor]] = [{} for _ in turned]
    for group, matrix in zip(wiring.groups, matrices, strict=True):
        pieces = [
            _component(turned, swapped, term, group.m) * weights[:, None, term.place]
            for term in group.terms
        ]
        columns = torch.cat(pieces, 2)  # (E, 1 or 2, K)
        out = product(columns, matrix, bias if group.l3 == 0 else None)
        for k, row in enumerate(group.rows):
            rows[group.l3][row] = out[:, k]
    return [torch.stack([each[k] for k in range(len(each))], 1) for each in rows]


def odd(features: Tensor) -> Tensor:
    """(E, 2l + 1, mul) -> component -m at m > 0, minus component m at -m: what odd paths read."""
    degree = features.shape[1] // 2
    backwards = features.flip(1)
    return torch.cat((-backwards[:, :degree], backwards[:, degree:]), 1)


def _component(turned: Sequence[Tensor], swapped: Sequence[Tensor], term: Term, m: int) -> Tensor:
    """(E, 1 or 2, mul) components -m and m of what a term reads."""
    source = (turned if term.path.even else swapped)[term.path.l1]
    l1 = term.path.l1
    return source[:, l1 : l1 + 1] if m == 0 else source[:, l1 - m : l1 + m + 1 : 2 * m]


def activate(
    mixed: Sequence[Tensor], attention: Tensor, rotations: Sequence[Tensor], muls: Muls
) -> tuple[Tensor, Tensor]:
    """Gate and logits: Lin's output -> (E, dim) messages turned back, (E, heads)."""
    scalars, *gates, alpha = mixed[0][:, 0].split([*muls, attention.numel()], 1)
    found = [SILU * functional.silu(scalars)]
    for each, gate, rotation in zip(mixed[1:], gates, rotations, strict=True):
        opened = each * (SIGMOID * torch.sigmoid(gate))[:, None]
        found.append(torch.bmm(rotation.transpose(1, 2), opened).flatten(1))
    return torch.cat(found, 1), logits(alpha, attention)


def logits(alpha: Tensor, attention: Tensor) -> Tensor:
    """(E, heads a) -> (E, heads): a . f(alpha), f the smooth leaky ReLU of slope 0.2."""
    leaky = alpha * (0.2 + 0.8 * torch.sigmoid(alpha))
    return (leaky.unflatten(1, attention.shape) * (LEAKY * attention)).sum(2)
