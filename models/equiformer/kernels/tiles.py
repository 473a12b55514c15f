"""Equiformer's messages as one operation that works through tiles of edges.

The same numbers as :func:`plain` of frame_messages.py. Written with one operation after
another every step walks an (edges, channels) tensor through memory; here a tile goes through all
steps while it is in the cache, an edge and its reverse share their path weights, D is made anew in
the backward pass, and three tensors wait for it. Gradients of gradients (training on forces) come
from the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from neupol_cli.models.equiformer.attention import attention_logits
from neupol_cli.models.equiformer.kernels.edge_frame import FramedEdges
from neupol_cli.models.equiformer.kernels.frame_instructions import FrameInstructions
from neupol_cli.models.equiformer.kernels.frame_messages import MessageInputs, plain
from neupol_cli.models.equiformer.kernels.tile import alpha_of, mixed_tile, write_values
from neupol_cli.models.equiformer.kernels.tile_gradient import TileGradient
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed


def messages(
    p: MessageInputs, framed_edges: FramedEdges, instructions: FrameInstructions, outs: Muls
) -> list[Tensor]:
    """(E, heads) logits, then for each l (E, 2l + 1, out) values; see :func:`plain`."""
    if not framed_edges.tiles:
        return plain(p, framed_edges, instructions, outs)
    return list(
        _Tiled.apply(
            framed_edges,
            instructions,
            outs,
            torch.is_grad_enabled(),
            *framed_edges.rotations,
            *_flat(p),
        )
    )


def _flat(p: MessageInputs) -> tuple[Tensor, ...]:
    return *p[:8], *p.matrices, *p.values


def _inputs(
    tensors: Sequence[Tensor], instructions: FrameInstructions, outs: Muls
) -> MessageInputs:
    """The inverse of :func:`_flat`."""
    end = 8 + len(instructions.groups)
    return MessageInputs(*tensors[:8], tensors[8:end], tensors[end:])  # type: ignore[call-arg,arg-type]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        framed_edges: FramedEdges,
        instructions: FrameInstructions,
        outs: Muls,
        keep: bool,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        p = _inputs(tensors[instructions.lmax :], instructions, outs)
        edges = framed_edges.receivers.shape[0]
        sizes = [(2 * degree + 1, out) for degree, out in enumerate(outs)]
        values = [p.source.new_empty(edges, *size) for size in sizes]
        scores = p.source.new_empty(edges, p.attention.shape[0])
        kept_tiles = []
        for tile in framed_edges.tiles:
            state = mixed_tile(p, framed_edges, instructions, tile)
            scores[tile.edges] = attention_logits(alpha_of(state, p)[:, 0], p.attention)
            write_values(state, p, framed_edges, tile, instructions, values)
            if keep:
                kept_tiles.append(state)
        ctx.save_for_backward(*tensors)
        ctx.tiles, ctx.given = kept_tiles, (framed_edges, instructions, outs)
        return scores, *values

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        framed_edges, instructions, outs = ctx.given
        wanted = ctx.needs_input_grad[4:]
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient

            def formula(inputs: list[Tensor | None]) -> Sequence[Tensor]:
                tensors = cast(list[Tensor], inputs)
                rotated = replace(framed_edges, rotations=tensors[: instructions.lmax])
                p = _inputs(tensors[instructions.lmax :], instructions, outs)
                return plain(p, rotated, instructions, outs)

            exact = recorded_gradients(formula, saved, gradients, wanted)
            return None, None, None, None, *exact
        p = _inputs(saved[instructions.lmax :], instructions, outs)
        turns = [torch.zeros_like(r) for r in framed_edges.rotations] if wanted[0] else []
        total = _inputs([torch.zeros_like(t) for t in _flat(p)], instructions, outs)
        learns = any(
            gradient_needed(tensor) for tensor in _flat(p)[3:]
        )  # by a weight, not only by a position
        for tile, state in zip(framed_edges.tiles, ctx.tiles, strict=True):
            TileGradient(p, total, framed_edges, instructions, tile, state, learns).run(
                gradients, turns
            )
        every = (*(turns or framed_edges.rotations), *_flat(total))
        pairs = zip(every, wanted, strict=True)
        return None, None, None, None, *(tensor if want else None for tensor, want in pairs)
