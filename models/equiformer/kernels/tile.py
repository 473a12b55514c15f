"""One tile of edges through Equiformer's messages, out of few and large operations.

A tile has n = s h edges: h half edges, and their reverses if s = 2. Everything is in the frames of
edge_frame.py and follows frame_messages.py, which says what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equiformer.kernels.edge_frame import FramedEdges, Tile
from neupol_cli.models.equiformer.kernels.frame_instructions import FrameInstructions, Group
from neupol_cli.models.equiformer.kernels.frame_messages import (
    MessageInputs,
    blocks,
    odd,
    rows,
)
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.nn.activation import SIGMOID, SILU
from neupol_cli.models.nn.linear import product


class TileState(NamedTuple):
    """What the backward pass of a tile of h half edges with s sides, n = s h, needs.

    weights: (h, weights); turned: for l (s, h, 2l + 1, mul); mixed: for each group (n, rows, out).
    """

    weights: Tensor
    turned: list[Tensor]
    mixed: list[Tensor]


def mixed_tile(
    p: MessageInputs, framed_edges: FramedEdges, instructions: FrameInstructions, tile: Tile
) -> TileState:
    """The tile's features in the edges' frames, its path weights, and Lin of D."""
    both = p.source.index_select(0, framed_edges.senders[tile.edges])
    both.add_(p.target.index_select(0, framed_edges.receivers[tile.edges]))
    first, *rest = blocks(both, instructions.muls)
    turned = [
        first,
        *(torch.bmm(r[tile.edges], v) for r, v in zip(framed_edges.rotations, rest, strict=True)),
    ]
    state = TileState(
        product(p.radial[tile.half], p.last, p.offset),
        [features.unflatten(0, (tile.sides, -1)) for features in turned],
        [],
    )
    swapped = swapped_rows(state.turned)
    for group, matrix in zip(instructions.groups, p.matrices, strict=True):
        bias = p.bias if group.l3 == 0 else None
        state.mixed.append(product(columns(state, swapped, group), matrix, bias))
    return state


Swapped = dict[tuple[int, int], Tensor]


def swapped_rows(turned: Sequence[Tensor]) -> Swapped:
    """For l and m > 0 (s, h, 2, mul): what odd paths read."""
    return {
        (degree, m): odd(rows(features, m))
        for degree, features in enumerate(turned)
        for m in range(1, degree + 1)
    }


def columns(state: TileState, swapped: Swapped, group: Group) -> Tensor:
    """(n, rows, K) the numbers of D in a group."""
    sides, half = state.turned[0].shape[:2]
    count = 1 if group.m == 0 else 2
    columns = state.weights.new_empty(sides, half, count, group.width)
    weights, at = state.weights[:, None], 0
    for term in group.terms:
        source = source_rows(state.turned, swapped, term.path.l1, group.m, term.path.even)
        out = columns[..., at : at + term.width]
        torch.mul(source, weights[..., term.place], out=out)
        at += term.width
    return columns.flatten(0, 1)


def source_rows(turned: Sequence[Tensor], swapped: Swapped, l1: int, m: int, even: bool) -> Tensor:
    """(s, h, 1 or 2, mul) what a term reads."""
    return rows(turned[l1], m) if even else swapped[l1, m]


def alpha_of(state: TileState, p: MessageInputs) -> Tensor:
    """(n, 1, heads a) the part of Lin's scalars that the logits are made of."""
    return state.mixed[0][..., -p.attention.numel() :]


def gates_of(state: TileState, muls: Muls) -> list[Tensor]:
    """For each l > 0 (n, 1, mul) the gates."""
    pieces = state.mixed[0].narrow(2, 0, sum(muls)).split(list(muls), 2)
    return [SIGMOID * torch.sigmoid(piece) for piece in pieces[1:]]


def opened_rows(
    state: TileState, gates: Sequence[Tensor], m: int, instructions: FrameInstructions
) -> Tensor:
    """(n, 1, in) G of m = 0, or (n, 2, in) components -m and m of G and what odd paths read."""
    muls = instructions.muls
    width = sum(muls[m:])
    first = state.mixed[instructions.index[m, m]]
    opened = first.new_empty(first.shape[0], 1 if m == 0 else 2, width * (1 if m == 0 else 2))
    at = 0
    for degree in range(m, len(muls)):
        out = opened[..., at : at + muls[degree]]
        at += muls[degree]
        if degree == 0:
            torch.mul(functional.silu(first[..., : muls[0]]), SILU, out=out)
        else:
            torch.mul(state.mixed[instructions.index[degree, m]], gates[degree - 1], out=out)
    if m > 0:
        torch.neg(opened[:, 1, :width], out=opened[:, 0, width:])
        opened[:, 1, width:] = opened[:, 0, :width]
    return opened


def write_values(
    state: TileState,
    p: MessageInputs,
    framed_edges: FramedEdges,
    tile: Tile,
    instructions: FrameInstructions,
    values: Sequence[Tensor],
) -> None:
    """Writes the tile's rows of the values."""
    framed = framed_values(state, p, instructions, [output.shape[2] for output in values])
    values[0][tile.edges] = framed[0]
    for value, rotation, output in zip(
        values[1:], framed_edges.rotations, framed[1:], strict=False
    ):
        value[tile.edges] = torch.bmm(rotation[tile.edges].transpose(1, 2), output)


def framed_values(
    state: TileState,
    p: MessageInputs,
    instructions: FrameInstructions,
    widths: Sequence[int],
) -> list[Tensor]:
    """The values in the edges' frames: for each l (n, 2l + 1, out)."""
    gates = gates_of(state, instructions.muls)
    mixed = state.mixed[0]
    framed = [mixed.new_empty(len(mixed), 2 * k + 1, width) for k, width in enumerate(widths)]
    for m, matrix in enumerate(p.values):
        made = product(
            opened_rows(state, gates, m, instructions), matrix, p.value_bias if m == 0 else None
        )
        for degree, piece in enumerate(made.split(list(widths[m:]), 2), m):
            rows(framed[degree], m).copy_(piece)
    return framed
