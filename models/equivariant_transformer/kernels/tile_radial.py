"""The radial part of the equivariant transformer's attention for a tile, with its derivatives.

R = silu(W e + b) times the envelope C where it belongs, and its first and second derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels.tile_formulas import silu_1, silu_2
from neupol_cli.models.nn.linear import product

Gradient = tuple[Tensor, Tensor]  # by X (P, H) and by Y (P, 3, H)


@dataclass(frozen=True)
class TileFilters:
    """R of a tile of T pairs, with what its derivatives need; n is 3 H or 4 H.

    before: (T, n) W e + b. value: (T, n) its silu. filter: (T, n) R. envelope: (T, 1) C.
    enveloped: the columns that C multiplies, all but dk if ``vector_cutoff``, else those of dv0.
    """

    before: Tensor
    value: Tensor
    filter: Tensor
    envelope: Tensor
    enveloped: slice

    @classmethod
    def of(
        cls, p: MessageInputs, tile: slice, shape: AttentionShape, keeps_value: bool = True
    ) -> TileFilters:
        """Without ``keeps_value``, which only a derivative by C needs, ``value`` is ``filter``."""
        hidden = p.points.shape[1] // 4
        before = product(p.encoded[tile], p.weight, p.bias)
        value = functional.silu(before)
        enveloped = slice(hidden, None if shape.vector_cutoff else 2 * hidden)
        envelope = p.envelope[tile]
        filter = value.clone() if keeps_value else value
        filter[:, enveloped] *= envelope
        return cls(before, value, filter, envelope, enveloped)

    @staticmethod
    def filters(p: MessageInputs, tile: slice, shape: AttentionShape) -> Tensor:
        """R alone, for those who need no derivative. (T, n)"""
        hidden = p.points.shape[1] // 4
        filter = functional.silu(product(p.encoded[tile], p.weight, p.bias), inplace=True)
        filter[:, hidden : None if shape.vector_cutoff else 2 * hidden] *= p.envelope[tile]
        return filter

    def first(
        self,
        p: MessageInputs,
        tile: slice,
        by_filter: Tensor,
        needed: MessageInputs,
        total: MessageInputs,
    ) -> None:
        """Adds to ``total`` what a derivative by R (T, n), which is overwritten, comes to."""
        columns = self.enveloped
        if needed.envelope:
            total.envelope[tile] += _dot(by_filter[:, columns], self.value[:, columns])
        by_filter[:, columns] *= self.envelope
        by_before = silu_1(by_filter, self.before)
        self._by_product(p, tile, by_before, needed, total)

    def moving(self, p: MessageInputs, t: MessageInputs, tile: slice) -> TileFilterRates:
        """The rates of all this when e and C move at the rates ``t``; W and b stay."""
        before_t = product(t.encoded[tile], p.weight)
        value_t = silu_1(before_t, self.before)
        columns, envelope_t = self.enveloped, t.envelope[tile]
        filter_t = value_t.clone()
        filter_t[:, columns] *= self.envelope
        filter_t[:, columns].addcmul_(self.value[:, columns], envelope_t)
        return TileFilterRates(before_t, value_t, filter_t, envelope_t)

    def second(
        self,
        p: MessageInputs,
        t: MessageInputs,
        tile: slice,
        moving: TileFilterRates,
        by_filter: Tensor,
        by_filter_t: Tensor,
        needed: MessageInputs,
        total: MessageInputs,
    ) -> None:
        """Adds to ``total`` what derivatives by R and by its rate, both overwritten, come to."""
        columns = self.enveloped
        if needed.envelope:
            by_envelope = _dot(by_filter[:, columns], self.value[:, columns])
            by_envelope += _dot(by_filter_t[:, columns], moving.value[:, columns])
            total.envelope[tile] += by_envelope
        by_filter[:, columns] *= self.envelope
        by_filter[:, columns].addcmul_(by_filter_t[:, columns], moving.envelope)
        by_filter_t[:, columns] *= self.envelope
        by_before = silu_1(by_filter, self.before)
        by_before.addcmul_(by_filter_t * moving.before, silu_2(self.before))
        self._by_product(p, tile, by_before, needed, total)
        if needed.weight:
            by_before_t = silu_1(by_filter_t, self.before)
            total.weight.addmm_(by_before_t.t(), t.encoded[tile])

    @staticmethod
    def _by_product(
        p: MessageInputs,
        tile: slice,
        by_before: Tensor,
        needed: MessageInputs,
        total: MessageInputs,
    ) -> None:
        if needed.weight:
            total.weight.addmm_(by_before.t(), p.encoded[tile])
        if needed.bias:
            total.bias.add_(by_before.sum(0))
        if needed.encoded:
            total.encoded[tile] += product(by_before, p.weight.t())


@dataclass(frozen=True)
class TileFilterRates:
    """TileRates of a tile's ``TileFilters``: before, value, filter (T, n); envelope (T, 1)."""

    before: Tensor
    value: Tensor
    filter: Tensor
    envelope: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(T, m), (T, m) -> (T, 1)."""
    return (a * b).sum(1, keepdim=True)
