"""A regular grid's points by the tile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neupol_cli.models.density.images import Images
from neupol_cli.models.density.tiles import Tile


class Grid(Protocol):
    """A regular grid: point (i, j, k) is origin + i step[0] + j step[1] + k step[2], Angstrom."""

    @property
    def origin(self) -> object: ...
    @property
    def step(self) -> object: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Block:
    """A block of a grid's points, and what may reach them.

    Attributes:
        start: its first indices.
        done: points of this block and all before it.
        near: (N,) images, ascending.
    """

    start: tuple[int, int, int]
    done: int
    near: Tensor


class GridTiles:
    """A grid cut into blocks of indices; an atom's sphere is a range of indices along each axis.

    No probe is compared with an atom whose range of indices misses its block.

    Args:
        grid: what is cut.
        images: of a structure's atoms.
        cutoff: Angstrom.
        size: at most so many probes a tile.
        pairs: how many distances a tile holds at a time.
    """

    def __init__(self, grid: Grid, images: Images, cutoff: float, size: int, pairs: int) -> None:
        device = images.points.device
        self.origin = torch.as_tensor(grid.origin, dtype=torch.float64, device=device)
        self.step = torch.as_tensor(grid.step, dtype=torch.float64, device=device)
        self.shape = tuple(int(n) for n in grid.shape)
        self.images, self.cutoff, self.pairs = images, cutoff, pairs
        self.block = block_sides(self.step, self.shape, size)
        inverse = torch.linalg.inv(self.step)
        reach = cutoff * torch.linalg.vector_norm(inverse, dim=0)  # (3,) in steps
        centre = (images.points - self.origin) @ inverse  # (G, 3) in steps
        self.first = (centre - reach).ceil()
        self.last = (centre + reach).floor()

    @property
    def points(self) -> int:
        """How many points the grid has."""
        return math.prod(self.shape)

    def blocks(self) -> Iterator[Block]:
        """All blocks, one behind the other along the last axis first."""
        starts = [range(0, n, b) for n, b in zip(self.shape, self.block, strict=True)]
        everything = torch.arange(self.images.atom_index.shape[0], device=self.step.device)
        done = 0
        for i in starts[0]:
            slab = self._overlapping(0, i, everything)
            for j in starts[1]:
                bar = self._overlapping(1, j, slab)
                for k in starts[2]:
                    done += math.prod(len(axis) for axis in self._ranges((i, j, k)))
                    yield Block((i, j, k), done, self._overlapping(2, k, bar))

    def tile(self, block: Block) -> Tile | None:
        """The tile of a block; None where no atom reaches."""
        return self._tile(self._axes(block.start), block.near) if block.near.shape[0] else None

    def _overlapping(self, axis: int, start: int, among: Tensor) -> Tensor:
        """Those images whose range of indices along an axis overlaps a block's."""
        stop = start + self.block[axis] - 1
        overlaps = (self.first[among, axis] <= stop) & (self.last[among, axis] >= start)
        return among[overlaps]

    def _ranges(self, start: tuple[int, int, int]) -> list[range]:
        """A block's indices along each axis."""
        sides = zip(start, self.block, self.shape, strict=True)
        return [range(a, min(a + b, n)) for a, b, n in sides]

    def _axes(self, start: tuple[int, int, int]) -> list[Tensor]:
        ranges = self._ranges(start)
        return [torch.arange(r.start, r.stop, device=self.step.device) for r in ranges]

    def _tile(self, axes: list[Tensor], near: Tensor) -> Tile:
        i, j, k = (m.flatten() for m in torch.meshgrid(*axes, indexing="ij"))
        probes = self.origin + torch.stack((i, j, k), 1).double() @ self.step
        rows = (i * self.shape[1] + j) * self.shape[2] + k
        return Tile(rows, probes, self.images, near, self.cutoff, self.pairs)


def block_sides(step: Tensor, shape: tuple[int, ...], size: int) -> list[int]:
    """The sides of blocks of at most ``size`` points, about as long as wide in Angstrom."""
    lengths = torch.linalg.vector_norm(step, dim=1).tolist()
    sides = [1, 1, 1]
    while True:
        # The shortest side grows, as long as some side may.
        room = [a for a in range(3) if sides[a] < shape[a]]
        room = [a for a in room if math.prod(sides) // sides[a] * (sides[a] + 1) <= size]
        if not room:
            return sides
        sides[min(room, key=lambda a: sides[a] * lengths[a])] += 1
