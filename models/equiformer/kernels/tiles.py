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
from typing import Any

import torch
from torch import Tensor

from neupol_cli.models.equiformer.kernels.edge_frame import Pairs
from neupol_cli.models.equiformer.kernels.frame_messages import Parts, Wiring, logits, plain
from neupol_cli.models.equiformer.kernels.tile import alpha_of, mixed_tile, speak
from neupol_cli.models.equiformer.kernels.tile_gradient import TileGradient
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.nn.gradient_needed import gradient_needed


def messages(p: Parts, pairs: Pairs, wiring: Wiring, outs: Muls) -> list[Tensor]:
    """(E, heads) logits, then for each l (E, 2l + 1, out) values; see :func:`plain`."""
    if not pairs.tiles:
        return plain(p, pairs, wiring, outs)
    return list(
        _Tiled.apply(pairs, wiring, outs, torch.is_grad_enabled(), *pairs.rotations, *_flat(p))
    )


def _flat(p: Parts) -> tuple[Tensor, ...]:
    return *p[:8], *p.matrices, *p.values, *p.coincident


def _parts(tensors: Sequence[Any], wiring: Wiring, outs: Muls) -> Parts:
    """The inverse of :func:`_flat`."""
    groups, degrees = len(wiring.groups), len(outs)
    ends = 8 + groups, 8 + groups + degrees
    lists = tensors[8 : ends[0]], tensors[ends[0] : ends[1]], tensors[ends[1] :]
    return Parts(*tensors[:8], *lists)  # type: ignore[call-arg]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, wiring: Wiring, outs: Muls, keep: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        p = _parts(tensors[wiring.lmax :], wiring, outs)
        edges = pairs.receivers.shape[0]
        sizes = [(2 * degree + 1, out) for degree, out in enumerate(outs)]
        values = [p.source.new_empty(edges, *size) for size in sizes]
        scores = p.source.new_empty(edges, p.attention.shape[0])
        ctx.tiles = []
        for tile in pairs.tiles:
            kept = mixed_tile(p, pairs, wiring, tile)
            scores[tile.edges] = logits(alpha_of(kept, p)[:, 0], p.attention)
            speak(kept, p, pairs, tile, wiring, values)
            if keep:
                ctx.tiles.append(kept)
        ctx.save_for_backward(*tensors)
        ctx.given = pairs, wiring, outs
        return scores, *values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pairs, wiring, outs = ctx.given
        wanted = ctx.needs_input_grad[4:]
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            exact = _plain_gradients(saved, pairs, wiring, outs, gradients, wanted)
            return None, None, None, None, *exact
        p = _parts(saved[wiring.lmax :], wiring, outs)
        turns = [torch.zeros_like(r) for r in pairs.rotations] if wanted[0] else []
        total = _parts([torch.zeros_like(t) for t in _flat(p)], wiring, outs)
        learns = any(
            gradient_needed(each) for each in _flat(p)[3:]
        )  # by a weight, not only by a position
        for tile, kept in zip(pairs.tiles, ctx.tiles, strict=True):
            TileGradient(p, total, pairs, wiring, tile, kept, learns).run(gradients, turns)
        every = (*(turns or pairs.rotations), *_flat(total))
        found = zip(every, wanted, strict=True)
        return None, None, None, None, *(each if want else None for each, want in found)


def _plain_gradients(
    tensors: Sequence[Tensor],
    pairs: Pairs,
    wiring: Wiring,
    outs: Muls,
    gradients: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The same gradients as a graph of operations.

    Derivatives are taken by aliases: D_2 is made of D_1, and a layer's features of the rotations
    before it, and what reaches a tensor by way of another one is not this function's to count.
    """
    aliases = [each.view_as(each) for each in tensors]
    rotated = replace(pairs, rotations=aliases[: wiring.lmax])
    values = plain(_parts(aliases[wiring.lmax :], wiring, outs), rotated, wiring, outs)
    inputs = [each for each, want in zip(aliases, wanted, strict=True) if want]
    slopes = iter(
        torch.autograd.grad(values, inputs, gradients, create_graph=True, allow_unused=True)
    )
    return [next(slopes) if want else None for want in wanted]
