"""Blocks of probes that lie together in space, and the images near each: what a program reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.density.tiles import Tile

# Probes of a block.
PROBES = 32


@dataclass(frozen=True)
class ProbeBlocks:
    """Those blocks of a tile's probes that see an image, only the last of which may be not full.

    Attributes:
        probes: (N,) which of the tile's, block by block.
        first: (blocks + 1,) where each block's images begin, int32.
        near: images, block by block, int32.
    """

    probes: Tensor
    first: Tensor
    near: Tensor

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return self.first.shape[0] - 1


def in_space(probes: Tensor) -> Tensor:
    """An order of (P, 3) probes in which neighbours in it are neighbours in space (Morton's)."""
    low = probes.amin(0)
    edge = (probes.amax(0) - low).amax().clamp(min=1e-6) / 1023
    box = ((probes - low) / edge).long()
    bits = torch.arange(10, device=probes.device)
    axes = torch.arange(3, device=probes.device)
    key = ((box[:, :, None] >> bits) & 1) << (3 * bits + axes[:, None])  # (P, 3, 10)
    return torch.argsort(key.sum((1, 2)), stable=True)


def probe_blocks(tile: Tile, order: Tensor, cutoff: float, pairs: int) -> ProbeBlocks:
    """The blocks of probes in an order, and the images that the box around each may see.

    Args:
        tile: P probes and the images near them.
        order: (P,) of the probes.
        cutoff: Angstrom.
        pairs: how many vectors between blocks and images are held at a time.
    """
    blocks = functional.pad(order, (0, -order.shape[0] % PROBES), value=int(order[-1]))
    blocks = blocks.view(-1, PROBES)  # (blocks, PROBES), the last probe repeated
    reached = _reached(tile, blocks, cutoff, pairs)  # (blocks, images)
    used = reached.any(1)
    counts = reached[used].sum(1)
    near = tile.near[reached.nonzero()[:, 1]].int()
    real = torch.arange(blocks.numel(), device=order.device).view_as(blocks) < order.shape[0]
    probes = blocks[used][real[used]]
    return ProbeBlocks(probes, functional.pad(counts.cumsum(0), (1, 0)).int(), near)


def _reached(tile: Tile, blocks: Tensor, cutoff: float, pairs: int) -> Tensor:
    """(blocks, images near the tile) whether an image may reach the box around a block's probes."""
    places = tile.probes[blocks]
    low, high = places.amin(1)[:, None], places.amax(1)[:, None]  # (blocks, 1, 3)
    points = tile.images.points[tile.near]
    reached = []
    for part in torch.arange(blocks.shape[0]).split(max(1, pairs // max(1, points.shape[0]))):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        apart = torch.maximum(low[rows] - points, points - high[rows]).clamp(min=0)
        # The margin: rounding must not hide an image that just reaches a probe.
        reached.append(apart.square().sum(-1) < cutoff**2 * (1 + 1e-9))
    return torch.cat(reached)
