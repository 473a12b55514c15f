"""The equivariant transformer's attention in tiles of PyTorch's operations, derivatives by hand.

Written with one operation after another, every step walks tensors of (edges, 3 H) through memory
and most of them wait for the backward pass. Here a tile of edges goes through all steps while it
is in the cache, in both directions, and nothing waits: derivatives compute the tile again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels import tile_formulas
from neupol_cli.models.equivariant_transformer.kernels.tile_formulas import (
    Filter,
    Sender,
    TileDerivatives,
    TileRates,
)
from neupol_cli.models.equivariant_transformer.kernels.tile_radial import Gradient, TileFilters
from neupol_cli.models.nn.unique_edges import EdgeDirection, UniqueEdges

# Edges times features in a tile, a quarter of a megabyte a tensor: smaller tiles stay in smaller
# caches and larger ones need fewer calls (benchmarks/results/equivariant_transformer.md).
TILE_NUMBERS = 256 * 256


def sums(p: MessageInputs, edges: UniqueEdges, shape: AttentionShape) -> tuple[Tensor, Tensor]:
    """X (P, H) and Y (P, 3, H)."""
    hidden = p.points.shape[1] // 4
    out = p.points.new_zeros(p.points.shape[0], 4, hidden)
    for tile, directions in edges.tiles(_tile_size(p)):
        f = Filter.of(TileFilters.filters(p, tile, shape), hidden)
        for direction in directions:
            q, s, u = _gathered(p, tile, direction)
            out.index_add_(0, direction.receivers, tile_formulas.messages(q, s, f, u, shape.heads))
    return _apart(out)


def first(
    p: MessageInputs, edges: UniqueEdges, shape: AttentionShape, g: Gradient, needed: MessageInputs
) -> MessageInputs:
    """The derivatives of sum(g * attention) by the inputs, those of them that are needed."""
    gradient = _together(g)  # (P, 4, H)
    hidden = p.points.shape[1] // 4
    total = MessageInputs(*(torch.zeros_like(part) for part in p))
    for tile, directions in edges.tiles(_tile_size(p)):
        r = TileFilters.of(p, tile, shape, keeps_value=bool(needed.envelope))
        f, df_rows = Filter.of(r.filter, hidden), torch.zeros_like(r.filter)
        df = Filter.of(df_rows, hidden)
        for direction in directions:
            q, s, u = _gathered(p, tile, direction)
            sent = gradient.index_select(0, direction.receivers)
            to = TileDerivatives(_empty_like(s), df, df)
            by_q, t2 = tile_formulas.first(q, s, f, u, sent, shape.heads, to)
            _add(total, direction, by_q, to.s)
            if needed.directions:
                total.directions[tile].add_(tile_formulas.turning(sent, t2), alpha=direction.sign)
        r.first(p, tile, df_rows, needed, total)
    return total


def second(
    p: MessageInputs,
    t: MessageInputs,
    edges: UniqueEdges,
    shape: AttentionShape,
    g: Gradient,
    needed: MessageInputs,
) -> tuple[Gradient, MessageInputs]:
    """The derivatives of sum(:func:`first` * t), by the gradient and by the inputs."""
    gradient = _together(g)  # (P, 4, H)
    hidden, heads = p.points.shape[1] // 4, shape.heads
    by_gradient = torch.zeros_like(gradient)
    total = MessageInputs(*(torch.zeros_like(part) for part in p))
    for tile, directions in edges.tiles(_tile_size(p)):
        r = TileFilters.of(p, tile, shape)
        moving = r.moving(p, t, tile)
        f, f_t = Filter.of(r.filter, hidden), Filter.of(moving.filter, hidden)
        rows, rows1 = torch.zeros_like(r.filter), torch.zeros_like(r.filter)
        df, df1 = Filter.of(rows, hidden), Filter.of(rows1, hidden)
        for direction in directions:
            q, s, u = _gathered(p, tile, direction)
            q_t, s_t, u_t = _gathered(t, tile, direction)
            sent = gradient.index_select(0, direction.receivers)
            to, rates = TileDerivatives(_empty_like(s), df, df1), TileRates(q_t, s_t, f_t, u_t)
            by_q, by_g, t2_t = tile_formulas.second(q, s, f, u, sent, rates, heads, to)
            by_gradient.index_add_(0, direction.receivers, by_g)
            _add(total, direction, by_q, to.s)
            if needed.directions:
                total.directions[tile].add_(tile_formulas.turning(sent, t2_t), alpha=direction.sign)
        r.second(p, t, tile, moving, rows, rows1, needed, total)
    return _apart(by_gradient), total


def _gathered(
    p: MessageInputs, tile: slice, direction: EdgeDirection
) -> tuple[Tensor, Sender, Tensor]:
    """q of the receivers, what the senders send, and the unit vectors to these."""
    hidden = p.points.shape[1] // 4
    q = p.points[:, :hidden].index_select(0, direction.receivers)
    three = p.points[:, hidden:].index_select(0, direction.senders)
    w = p.vectors.index_select(0, direction.senders) if p.vectors.numel() else None
    return q, Sender(three, w), p.directions[tile] * direction.sign


def _empty_like(s: Sender) -> Sender:
    return Sender(torch.empty_like(s.three), None if s.w is None else torch.empty_like(s.w))


def _add(total: MessageInputs, direction: EdgeDirection, by_q: Tensor, by_s: Sender) -> None:
    """Adds derivatives by what receivers and senders gave to the points' own."""
    hidden = by_q.shape[1]
    total.points[:, :hidden].index_add_(0, direction.receivers, by_q)
    total.points[:, hidden:].index_add_(0, direction.senders, by_s.three)
    if by_s.w is not None:
        total.vectors.index_add_(0, direction.senders, by_s.w)


def _together(g: Gradient) -> Tensor:
    """(P, 4, H) x, y_x, y_y, y_z."""
    return torch.cat((g[0][:, None], g[1]), 1)


def _apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse."""
    return rows[:, 0].contiguous(), rows[:, 1:].contiguous()


def _tile_size(p: MessageInputs) -> int:
    """Edges in a tile; a GPU, whose launches cost more than its memory, takes all at once."""
    if p.points.device.type != "cpu":
        return max(p.encoded.shape[0], 1)
    return max(TILE_NUMBERS // (p.points.shape[1] // 4), 16)
