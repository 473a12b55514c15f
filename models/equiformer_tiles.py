"""Equiformer's messages as one operation that works through tiles of edges.

The same numbers as :func:`plain` of models/equiformer_messages.py. Written with one operation after
another every step walks an (edges, channels) tensor through memory; here a tile goes through all
steps while it is in the cache, an edge and its reverse share their path weights, D is made anew in
the backward pass, and three tensors wait for it. Gradients of gradients (training on forces) come
from the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.edge_frame import Pairs, Tile
from neupol_cli.models.equiformer_messages import (
    LEAKY,
    Group,
    Parts,
    Wiring,
    blocks,
    logits,
    odd,
    path_weights,
    plain,
    rows,
)
from neupol_cli.models.linear import product
from neupol_cli.models.so3 import SIGMOID, SILU, Muls


def messages(p: Parts, pairs: Pairs, wiring: Wiring, outs: Muls) -> list[Tensor]:
    """(E, heads) logits, then for each l (E, 2l + 1, out) values; see :func:`plain`."""
    if not pairs.tiles:
        return plain(p, pairs, wiring, outs)
    return list(_Tiled.apply(pairs, wiring, outs, *pairs.rotations, *_flat(p)))


def _flat(p: Parts) -> tuple[Tensor, ...]:
    return *p[:8], *p.matrices, *p.values, *p.coincident


def _parts(tensors: Sequence[Any], wiring: Wiring, outs: Muls) -> Parts:
    """The inverse of :func:`_flat`."""
    groups, degrees = len(wiring.groups), len(outs)
    ends = 8 + groups, 8 + groups + degrees
    lists = tensors[8 : ends[0]], tensors[ends[0] : ends[1]], tensors[ends[1] :]
    return Parts(*tensors[:8], *lists)  # type: ignore[call-arg]


class Kept(NamedTuple):
    """What the backward pass of a tile of h half edges with s sides, n = s h, needs.

    weights: (h, weights); turned: for l (s, h, 2l + 1, mul); mixed: for each group (n, rows, out).
    """

    weights: Tensor
    turned: list[Tensor]
    mixed: list[Tensor]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, wiring: Wiring, outs: Muls, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        p = _parts(tensors[wiring.lmax :], wiring, outs)
        edges = pairs.receivers.shape[0]
        sizes = [(2 * degree + 1, out) for degree, out in enumerate(outs)]
        values = [p.source.new_empty(edges, *size) for size in sizes]
        scores = p.source.new_empty(edges, p.attention.shape[0])
        ctx.tiles = []
        for tile in pairs.tiles:
            kept = _mixed(p, pairs, wiring, tile)
            scores[tile.edges] = logits(_alpha(kept, p)[:, 0], p.attention)
            _speak(kept, p, pairs, tile, wiring, values)
            if any(ctx.needs_input_grad):
                ctx.tiles.append(kept)
        ctx.save_for_backward(*tensors)
        ctx.given = pairs, wiring, outs
        return scores, *values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pairs, wiring, outs = ctx.given
        wanted = ctx.needs_input_grad[3:]
        p = _parts(ctx.saved_tensors[wiring.lmax :], wiring, outs)
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            return None, None, None, *_plain_gradients(p, pairs, wiring, outs, gradients, wanted)
        turns = [torch.zeros_like(r) for r in pairs.rotations] if wanted[0] else []
        total = _parts([torch.zeros_like(t) for t in _flat(p)], wiring, outs)
        for tile, kept in zip(pairs.tiles, ctx.tiles, strict=True):
            _Backward(p, total, pairs, wiring, tile, kept).run(gradients, turns)
        every = (*(turns or pairs.rotations), *_flat(total))
        found = zip(every, wanted, strict=True)
        return None, None, None, *(each if want else None for each, want in found)


def _plain_gradients(
    p: Parts,
    pairs: Pairs,
    wiring: Wiring,
    outs: Muls,
    gradients: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    tensors = (*pairs.rotations, *_flat(p))
    inputs = [each for each, want in zip(tensors, wanted, strict=True) if want]
    values = plain(p, pairs, wiring, outs)
    found = iter(
        torch.autograd.grad(values, inputs, gradients, create_graph=True, allow_unused=True)
    )
    return [next(found) if want else None for want in wanted]


def _mixed(p: Parts, pairs: Pairs, wiring: Wiring, tile: Tile) -> Kept:
    """The tile's features in the edges' frames, its path weights, and Lin of D."""
    both = p.source.index_select(0, pairs.senders[tile.edges])
    both.add_(p.target.index_select(0, pairs.receivers[tile.edges]))
    first, *rest = blocks(both, wiring.muls)
    turned = [
        first,
        *(torch.bmm(r[tile.edges], v) for r, v in zip(pairs.rotations, rest, strict=True)),
    ]
    kept = Kept(
        path_weights(p, tile.half, wiring, tile.apart),
        [each.unflatten(0, (tile.sides, -1)) for each in turned],
        [],
    )
    swapped = _swapped(kept.turned)
    for group, matrix in zip(wiring.groups, p.matrices, strict=True):
        bias = p.bias if group.l3 == 0 else None
        kept.mixed.append(product(_columns(kept, swapped, group), matrix, bias))
    return kept


Swapped = dict[tuple[int, int], Tensor]


def _swapped(turned: Sequence[Tensor]) -> Swapped:
    """For l and m > 0 (s, h, 2, mul): what odd paths read."""
    return {
        (degree, m): odd(rows(each, m))
        for degree, each in enumerate(turned)
        for m in range(1, degree + 1)
    }


def _columns(kept: Kept, swapped: Swapped, group: Group) -> Tensor:
    """(n, rows, K) the numbers of D in a group."""
    sides, half = kept.turned[0].shape[:2]
    count = 1 if group.m == 0 else 2
    columns = kept.weights.new_empty(sides, half, count, group.width)
    weights, at = kept.weights[:, None], 0
    for term in group.terms:
        source = _source(kept.turned, swapped, term.path.l1, group.m, term.path.even)
        out = columns[..., at : at + term.width]
        torch.mul(source, weights[..., term.place], out=out)
        at += term.width
    return columns.flatten(0, 1)


def _source(turned: Sequence[Tensor], swapped: Swapped, l1: int, m: int, even: bool) -> Tensor:
    """(s, h, 1 or 2, mul) what a term reads."""
    return rows(turned[l1], m) if even else swapped[l1, m]


def _index(l3: int, m: int) -> int:
    """Where the group of l3 and m is among the wiring's groups."""
    return l3 * (l3 + 1) // 2 + m


def _alpha(kept: Kept, p: Parts) -> Tensor:
    """(n, 1, heads a) the part of Lin's scalars that the logits are made of."""
    return kept.mixed[0][..., -p.attention.numel() :]


def _gates(kept: Kept, muls: Muls) -> list[Tensor]:
    """For each l > 0 (n, 1, mul) the gates."""
    pieces = kept.mixed[0].narrow(2, 0, sum(muls)).split(list(muls), 2)
    return [SIGMOID * torch.sigmoid(piece) for piece in pieces[1:]]


def _opened(kept: Kept, gates: Sequence[Tensor], m: int, muls: Muls) -> Tensor:
    """(n, 1, in) G of m = 0, or (n, 2, in) components -m and m of G and what odd paths read."""
    width = sum(muls[m:])
    first = kept.mixed[_index(m, m)]
    opened = first.new_empty(first.shape[0], 1 if m == 0 else 2, width * (1 if m == 0 else 2))
    at = 0
    for degree in range(m, len(muls)):
        out = opened[..., at : at + muls[degree]]
        at += muls[degree]
        if degree == 0:
            torch.mul(functional.silu(first[..., : muls[0]]), SILU, out=out)
        else:
            torch.mul(kept.mixed[_index(degree, m)], gates[degree - 1], out=out)
    if m > 0:
        torch.neg(opened[:, 1, :width], out=opened[:, 0, width:])
        opened[:, 1, width:] = opened[:, 0, :width]
    return opened


def _speak(
    kept: Kept, p: Parts, pairs: Pairs, tile: Tile, wiring: Wiring, values: Sequence[Tensor]
) -> None:
    """Writes the tile's rows of the values."""
    framed = _framed(kept, p, tile, wiring, [each.shape[2] for each in values])
    values[0][tile.edges] = framed[0]
    for value, rotation, each in zip(values[1:], pairs.rotations, framed[1:], strict=False):
        value[tile.edges] = torch.bmm(rotation[tile.edges].transpose(1, 2), each)


def _framed(
    kept: Kept, p: Parts, tile: Tile, wiring: Wiring, widths: Sequence[int]
) -> list[Tensor]:
    """The values in the edges' frames: for each l (n, 2l + 1, out)."""
    gates = _gates(kept, wiring.muls)
    mixed = kept.mixed[0]
    framed = [mixed.new_empty(len(mixed), 2 * k + 1, width) for k, width in enumerate(widths)]
    for m, matrix in enumerate(p.values if tile.apart else p.coincident):
        made = product(
            _opened(kept, gates, m, wiring.muls), matrix, p.value_bias if m == 0 else None
        )
        for degree, piece in enumerate(made.split(list(widths[m:]), 2), m):
            rows(framed[degree], m).copy_(piece)
    return framed


class _Backward:
    """The chain rule through one tile; adds to ``total``, which is laid out like ``p``."""

    def __init__(
        self, p: Parts, total: Parts, pairs: Pairs, wiring: Wiring, tile: Tile, kept: Kept
    ) -> None:
        self.p, self.total, self.pairs, self.tile, self.kept = p, total, pairs, tile, kept
        self.muls, self.wiring = wiring.muls, wiring
        self.mixed = [torch.empty_like(each) for each in kept.mixed]

    def run(self, gradients: Sequence[Tensor], turns: Sequence[Tensor]) -> None:
        """From the gradients of logits and values (all edges) to those of the parts.

        ``turns`` receives the gradients of the rotations; it is empty if nobody wants them.
        """
        self._values(gradients[1:])
        self._logits(gradients[0][self.tile.edges])
        turned, weights = self._products()
        self._weights(weights)
        self._ends(turned)
        if turns:
            self._turns(gradients[1:], turned, turns)

    def _values(self, gradients: Sequence[Tensor]) -> None:
        """Through turning, Lin and gates: fills ``mixed`` but for its alpha part."""
        edges, kept = self.tile.edges, self.kept
        rotations = [None, *self.pairs.rotations]
        framed = [
            g[edges] if r is None else torch.bmm(r[edges], g[edges])
            for g, r in zip(gradients, rotations, strict=False)
        ]
        gates = _gates(kept, self.muls)
        by_gate: list[Tensor | None] = [None for _ in gates]
        chosen, total = (
            (each.values if self.tile.apart else each.coincident) for each in (self.p, self.total)
        )
        for m in range(len(self.muls)):
            if m < len(gradients):
                opened = _opened(kept, gates, m, self.muls)
                g = torch.cat([rows(each, m) for each in framed[m:]], 2)
                _outer(total[m], g, opened)
                if m == 0:
                    self.total.value_bias.add_(g.sum((0, 1)))
                inner = _folded(product(g, chosen[m].t()), m)
                self._opened(inner, m, gates, by_gate)
            else:
                for degree in range(m, len(self.muls)):
                    self.mixed[_index(degree, m)].zero_()
        self._gates(gates, by_gate)

    def _opened(
        self, inner: Tensor, m: int, gates: Sequence[Tensor], by_gate: list[Tensor | None]
    ) -> None:
        """From G's components -m and m to Lin's, and a sum for the gates."""
        for degree, piece in enumerate(inner.split(list(self.muls[m:]), 2), m):
            mixed = self.kept.mixed[_index(degree, m)]
            if degree == 0:
                scalars = mixed[..., : self.muls[0]]
                out = self.mixed[0][..., : self.muls[0]]
                torch.mul(torch.ops.aten.silu_backward(piece, scalars), SILU, out=out)
                continue
            torch.mul(piece, gates[degree - 1], out=self.mixed[_index(degree, m)])
            found = (piece * mixed).sum(1, keepdim=True)
            before = by_gate[degree - 1]
            by_gate[degree - 1] = found if before is None else before.add_(found)

    def _gates(self, gates: Sequence[Tensor], by_gate: Sequence[Tensor | None]) -> None:
        """sigmoid' = sigmoid (1 - sigmoid)."""
        at = self.muls[0]
        for gate, found in zip(gates, by_gate, strict=True):
            out = self.mixed[0][..., at : at + gate.shape[2]]
            if found is not None:
                torch.mul(found.mul_(gate), 1 - gate / SIGMOID, out=out)
            at += gate.shape[2]

    def _logits(self, g: Tensor) -> None:
        """f(x) = x (0.2 + 0.8 s), f' = 0.2 + 0.8 s + 0.8 x s (1 - s), s = sigmoid(x)."""
        shape = self.p.attention.shape
        alpha = _alpha(self.kept, self.p)[:, 0]
        s = torch.sigmoid(alpha)
        slope = 0.2 + 0.8 * s
        leaky = (alpha * slope).unflatten(1, shape)
        self.total.attention.add_((leaky * g[:, :, None]).sum(0), alpha=LEAKY)
        slope.addcmul_(alpha * s, 1 - s, value=0.8)
        by_leaky = g[:, :, None] * (LEAKY * self.p.attention)
        torch.mul(slope, by_leaky.flatten(1), out=self.mixed[0][:, 0, -alpha.shape[1] :])

    def _products(self) -> tuple[list[Tensor], Tensor]:
        """Through Lin and the weighted products: gradients of ``turned`` and of the weights."""
        kept, p, total = self.kept, self.p, self.total
        swapped = _swapped(kept.turned)
        turned = [
            torch.zeros_like(each, memory_format=torch.contiguous_format) for each in kept.turned
        ]
        back = {key: torch.zeros_like(each) for key, each in swapped.items()}
        weights = torch.zeros_like(kept.weights)
        total.bias.add_(self.mixed[0].sum((0, 1)))
        for k, group in enumerate(self.wiring.groups):
            g = self.mixed[k]
            _outer(total.matrices[k], g, _columns(kept, swapped, group))
            columns = product(g, p.matrices[k].t()).unflatten(0, (self.tile.sides, -1))
            at = 0
            for term in group.terms:
                piece = columns[..., at : at + term.width]
                at += term.width
                where = (term.path.l1, group.m, term.path.even)
                _source(turned, back, *where).addcmul_(piece, kept.weights[:, None, term.place])
                source = _source(kept.turned, swapped, *where)
                _add_products(weights[:, term.place], piece, source)
        for (degree, m), each in back.items():
            rows(turned[degree], m).sub_(odd(each))
        return turned, weights

    def _weights(self, g: Tensor) -> None:
        """Through the last map of the radial network."""
        if not self.tile.apart:
            g = g * self.wiring.coincident.like(g)
        half = self.tile.half
        self.total.radial[half] = product(g, self.p.last.t())
        self.total.last.add_(product(g.t(), self.p.radial[half].t()))
        self.total.offset.add_(g.sum(0))

    def _ends(self, turned: Sequence[Tensor]) -> None:
        """Turns back, and adds to senders and receivers."""
        edges = self.tile.edges
        first, *rest = (each.flatten(0, 1) for each in turned)
        back = [
            torch.bmm(r[edges].transpose(1, 2), each)
            for r, each in zip(self.pairs.rotations, rest, strict=True)
        ]
        both = torch.cat([each.flatten(1) for each in (first, *back)], 1)
        self.total.source.index_add_(0, self.pairs.senders[edges], both)
        self.total.target.index_add_(0, self.pairs.receivers[edges], both)

    def _turns(
        self, gradients: Sequence[Tensor], turned: Sequence[Tensor], turns: Sequence[Tensor]
    ) -> None:
        """t = D v, so g_D = g_t vᵀ with v = Dᵀ t; and values Dᵀ f, so g_D += f gᵀ."""
        edges = self.tile.edges
        for turn, rotation, g, t in zip(
            turns, self.pairs.rotations, turned[1:], self.kept.turned[1:], strict=True
        ):
            joined = torch.bmm(g.flatten(0, 1), t.flatten(0, 1).transpose(1, 2))
            turn[edges] = torch.bmm(joined, rotation[edges])
        widths = [g.shape[2] for g in gradients]
        framed = _framed(self.kept, self.p, self.tile, self.wiring, widths)
        for turn, f, g in zip(turns, framed[1:], gradients[1:], strict=False):
            turn[edges] += torch.bmm(f, g[edges].transpose(1, 2))


def _outer(total: Tensor, g: Tensor, x: Tensor) -> None:
    """Adds gᵀ x over the first two axes: (n, rows, out), (n, rows, in) to (out, in)."""
    total.add_(product(g.flatten(0, 1).t(), x.flatten(0, 1).t()))


def _folded(g: Tensor, m: int) -> Tensor:
    """(n, rows, in) by what :func:`_opened` made -> (n, rows, channels) by G itself."""
    if m == 0:
        return g
    even, swapped = g.chunk(2, 2)
    return even - odd(swapped)


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds the sum over sides and rows of a b: (s, h, rows, mul) twice to (h, mul)."""
    for side in range(a.shape[0]):
        for row in range(a.shape[2]):
            total.addcmul_(a[side, :, row], b[side, :, row])
