"""What the equivariant transformer's attention is given, and the radial part of it for a tile.

R = silu(W e + b) times the envelope C where it belongs, and its first and second derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equivariant_transformer.kernels.attention_tiles import silu_1, silu_2
from neupol_cli.models.nn.linear import product


class Parts(NamedTuple):
    """What a layer hands in; P points, Q pairs, H features, K numbers a distance.

    points: (P, 4 H) q, k, v0, v2. vectors: (P, 3, H) w, or (P, 0, H) in a layer without vectors.
    encoded: (Q, K) e. weight: (4 H, K) or, without w, (3 H, K) rows dk, dv0, dv2, dv1;
    bias: as many. envelope: (Q, 1) C. directions: (Q, 3) u, from first to second point.
    """

    points: Tensor
    vectors: Tensor
    encoded: Tensor
    weight: Tensor
    bias: Tensor
    envelope: Tensor
    directions: Tensor


Gradient = tuple[Tensor, Tensor]  # by X (P, H) and by Y (P, 3, H)


class Shape(NamedTuple):
    """How to read the parts: number of heads, and whether C multiplies Y too."""

    heads: int
    smooth: bool


@dataclass(frozen=True)
class Radial:
    """R of a tile of T pairs, with what its derivatives need; n is 3 H or 4 H.

    before: (T, n) W e + b. value: (T, n) its silu. filter: (T, n) R. envelope: (T, 1) C.
    enveloped: the columns that C multiplies, all but dk if ``smooth``, else those of dv0.
    """

    before: Tensor
    value: Tensor
    filter: Tensor
    envelope: Tensor
    enveloped: slice

    @classmethod
    def of(cls, p: Parts, tile: slice, shape: Shape, keeps_value: bool = True) -> Radial:
        """Without ``keeps_value``, which only a derivative by C needs, ``value`` is ``filter``."""
        hidden = p.points.shape[1] // 4
        before = product(p.encoded[tile], p.weight, p.bias)
        value = functional.silu(before)
        enveloped = slice(hidden, None if shape.smooth else 2 * hidden)
        envelope = p.envelope[tile]
        filter = value.clone() if keeps_value else value
        filter[:, enveloped] *= envelope
        return cls(before, value, filter, envelope, enveloped)

    @staticmethod
    def filters(p: Parts, tile: slice, shape: Shape) -> Tensor:
        """R alone, for those who need no derivative. (T, n)"""
        hidden = p.points.shape[1] // 4
        filter = functional.silu(product(p.encoded[tile], p.weight, p.bias), inplace=True)
        filter[:, hidden : None if shape.smooth else 2 * hidden] *= p.envelope[tile]
        return filter

    def first(self, p: Parts, tile: slice, by_filter: Tensor, wanted: Parts, total: Parts) -> None:
        """Adds to ``total`` what a derivative by R (T, n), which is overwritten, comes to."""
        columns = self.enveloped
        if wanted.envelope:
            total.envelope[tile] += _dot(by_filter[:, columns], self.value[:, columns])
        by_filter[:, columns] *= self.envelope
        by_before = silu_1(by_filter, self.before)
        self._by_product(p, tile, by_before, wanted, total)

    def moving(self, p: Parts, t: Parts, tile: slice) -> Moving:
        """The rates of all this when e and C move at the rates ``t``; W and b stay."""
        before_t = product(t.encoded[tile], p.weight)
        value_t = silu_1(before_t, self.before)
        columns, envelope_t = self.enveloped, t.envelope[tile]
        filter_t = value_t.clone()
        filter_t[:, columns] *= self.envelope
        filter_t[:, columns].addcmul_(self.value[:, columns], envelope_t)
        return Moving(before_t, value_t, filter_t, envelope_t)

    def second(
        self,
        p: Parts,
        t: Parts,
        tile: slice,
        moving: Moving,
        by_filter: Tensor,
        by_filter_t: Tensor,
        wanted: Parts,
        total: Parts,
    ) -> None:
        """Adds to ``total`` what derivatives by R and by its rate, both overwritten, come to."""
        columns = self.enveloped
        if wanted.envelope:
            by_envelope = _dot(by_filter[:, columns], self.value[:, columns])
            by_envelope += _dot(by_filter_t[:, columns], moving.value[:, columns])
            total.envelope[tile] += by_envelope
        by_filter[:, columns] *= self.envelope
        by_filter[:, columns].addcmul_(by_filter_t[:, columns], moving.envelope)
        by_filter_t[:, columns] *= self.envelope
        by_before = silu_1(by_filter, self.before)
        by_before.addcmul_(by_filter_t * moving.before, silu_2(self.before))
        self._by_product(p, tile, by_before, wanted, total)
        if wanted.weight:
            by_before_t = silu_1(by_filter_t, self.before)
            total.weight.addmm_(by_before_t.t(), t.encoded[tile])

    @staticmethod
    def _by_product(p: Parts, tile: slice, by_before: Tensor, wanted: Parts, total: Parts) -> None:
        if wanted.weight:
            total.weight.addmm_(by_before.t(), p.encoded[tile])
        if wanted.bias:
            total.bias.add_(by_before.sum(0))
        if wanted.encoded:
            total.encoded[tile] += product(by_before, p.weight.t())


@dataclass(frozen=True)
class Moving:
    """Rates of a tile's ``Radial``: before, value, filter (T, n); envelope (T, 1)."""

    before: Tensor
    value: Tensor
    filter: Tensor
    envelope: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(T, m), (T, m) -> (T, 1)."""
    return (a * b).sum(1, keepdim=True)
