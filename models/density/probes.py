"""Which atoms a probe sees: periodic images, random probes of a batch, tiles of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Graph


class Grid(Protocol):
    """A regular grid: point (i, j, k) is origin + i step[0] + j step[1] + k step[2], Angstrom."""

    @property
    def origin(self) -> object: ...
    @property
    def step(self) -> object: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Images:
    """Atoms and those of their periodic images that a probe may see.

    Attributes:
        owners: (G,) which atom each is an image of, ascending.
        points: (G, 3) where it is, float64, Angstrom.
        shifts: (G, 3) its position less its atom's.
    """

    owners: Tensor
    points: Tensor
    shifts: Tensor


def images(
    graph: Graph, cutoff: float, low: Tensor | None = None, high: Tensor | None = None
) -> Images:
    """All images within ``cutoff`` of the box of fractional coordinates [low, high].

    Args:
        graph: structures; without periodicity every atom is its own only image.
        cutoff: Angstrom.
        low, high: (B, 3) fractional, along periodic directions; [0, 1] if not given.
    """
    positions = graph.positions.detach().double()
    atoms = torch.arange(positions.shape[0], device=positions.device)
    if graph.cell is None or graph.pbc is None:
        return Images(atoms, positions, torch.zeros_like(positions))
    cell = completed(graph.cell.double(), graph.pbc)
    inverse = torch.linalg.inv(cell)
    margin = cutoff * torch.linalg.vector_norm(inverse, dim=1) + 1e-9  # (B, 3): cutoff / heights
    low = (torch.zeros_like(margin) if low is None else low) - margin
    high = (torch.ones_like(margin) if high is None else high) + margin
    place = torch.einsum("ax,axk->ak", positions, inverse[graph.batch])  # (A, 3) fractional
    first = (low[graph.batch] - place).ceil()
    last = (high[graph.batch] - place).floor()
    open_ = ~graph.pbc[graph.batch]
    first, last = first.masked_fill(open_, 0), last.masked_fill(open_, 0)
    owners, turns = _box_points(first.long(), last.long())
    shifts = torch.einsum("gk,gkx->gx", turns.double(), cell[graph.batch[owners]])
    return Images(owners, positions[owners] + shifts, shifts)


def completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells (B, 3, 3) whose open directions carry a unit vector orthogonal to the others."""
    from ase.geometry import complete_cell

    closed = torch.where(pbc[:, :, None], cell, 0.0).cpu().numpy()
    boxes = [torch.as_tensor(complete_cell(c), dtype=cell.dtype) for c in closed]
    return torch.stack(boxes).to(cell.device)


def _box_points(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """All integer points of the boxes [first, last] (A, 3): (G,) whose, ascending, and (G, 3)."""
    sizes = (last - first + 1).clamp(min=0)  # (A, 3)
    counts = sizes.prod(1)
    owners = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
    rank = torch.arange(owners.shape[0], device=counts.device)
    rank = rank - (counts.cumsum(0) - counts)[owners]
    _, b, c = sizes[owners].unbind(1)
    turns = torch.stack((rank // (b * c), rank // c % b, rank % c), 1)
    return owners, turns + first[owners]


@dataclass(frozen=True)
class Slots:
    """Probe edges in a row of K slots for each atom, so that one batched product serves all.

    Attributes:
        receivers: (A K,) the probe; 0 in an empty slot.
        vectors: (A K, 3) probe - atom; (cutoff, 0, 0) in an empty slot.
        filled: (A K,) bool.
        width: K.
    """

    receivers: Tensor
    vectors: Tensor
    filled: Tensor
    width: int


def slots(graph: Graph, seen: Images, points: Tensor, probes: Tensor, cutoff: float) -> Slots:
    """Edges from the atoms of a batch to its structures' probes.

    Args:
        graph: B structures with A atoms.
        seen: their images.
        points: (A, 3) where the atoms are; differentiable.
        probes: (B, P, 3) Angstrom.
        cutoff: Angstrom.
    """
    structure = graph.batch[seen.owners]  # (G,)
    apart = probes[structure] - seen.points[:, None].to(probes.dtype)  # (G, P, 3)
    image, probe = (apart.square().sum(-1) < cutoff**2).nonzero(as_tuple=True)  # sorted by image
    owners = seen.owners[image]
    receivers = structure[image] * probes.shape[1] + probe
    shifted = points.index_select(0, owners) + seen.shifts[image].to(points.dtype)
    vectors = probes.reshape(-1, 3).index_select(0, receivers) - shifted
    counts = torch.bincount(owners, minlength=points.shape[0])
    width = max(int(counts.max()), 1)
    place = torch.arange(owners.shape[0], device=owners.device)
    place = place + (torch.arange(counts.shape[0], device=owners.device) * width)[owners]
    place = place - (counts.cumsum(0) - counts)[owners]
    return _laid_out(place, receivers, vectors, points.shape[0], width, cutoff)


def _laid_out(
    place: Tensor, receivers: Tensor, vectors: Tensor, atoms: int, width: int, cutoff: float
) -> Slots:
    size = atoms * width
    filled = torch.zeros(size, dtype=torch.bool, device=place.device)
    filled[place] = True
    slot_receivers = torch.zeros(size, dtype=torch.long, device=place.device)
    slot_receivers[place] = receivers
    empty = vectors.new_zeros(size, 3)
    empty[:, 0] = cutoff
    return Slots(slot_receivers, empty.index_copy(0, place, vectors), filled, width)


@dataclass(frozen=True)
class Tile:
    """Some probes and the edges that reach them, which are found when they are first asked for.

    Attributes:
        rows: (P,) where their densities belong.
        probes: (P, 3) Angstrom, float64.
        seen: images.
        near: (N,) those of them that may reach a probe.
        cutoff: Angstrom.
        pairs: how many distances are held at a time.
    """

    rows: Tensor
    probes: Tensor
    seen: Images
    near: Tensor
    cutoff: float
    pairs: int

    @property
    def receivers(self) -> Tensor:
        """(E,) index among these probes, for edges sorted by image."""
        return self._edges[0]

    @property
    def vectors(self) -> Tensor:
        """(E, 3) probe - atom, float64."""
        return self._edges[1]

    @cached_property
    def counts(self) -> list[int]:
        """Image by image, how many of the edges are its."""
        return self._edges[2].tolist()

    @cached_property
    def owners(self) -> list[int]:
        """Image by image, the atom it is an image of."""
        return self.seen.owners[self.near].tolist()

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Receivers, vectors, counts.

        Distances are float64, whatever the network's numbers are: the density jumps where an
        atom enters a probe's sphere.
        """
        counts, receivers, vectors = [self.near[:0]], [self.near[:0]], [self.probes[:0]]
        for part in self.near.split(max(1, self.pairs // self.probes.shape[0])):
            apart = self.probes[None] - self.seen.points[part][:, None]  # (N, P, 3)
            image, probe = (apart.square().sum(-1) < self.cutoff**2).nonzero(as_tuple=True)
            counts.append(torch.bincount(image, minlength=part.shape[0]))
            receivers.append(probe)
            vectors.append(apart[image, probe])
        return torch.cat(receivers), torch.cat(vectors), torch.cat(counts)


def inside(graph: Graph, points: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The boxes of fractional coordinates, (B, 3) low and high, that hold (B, M, 3) points."""
    if graph.cell is None or graph.pbc is None:
        return None, None
    cell = completed(graph.cell.double(), graph.pbc)
    place = points.double() @ torch.linalg.inv(cell)
    return place.amin(1), place.amax(1)


def scattered_tiles(
    probes: Tensor, seen: Images, cutoff: float, size: int, pairs: int
) -> Iterator[Tile]:
    """Any probes (M, 3), float64, in tiles of at most ``size`` neighbouring ones."""
    order = _sorted_in_space(probes, 0.6 * cutoff)
    for rows in order.split(size):
        part = probes[rows]
        low, high = part.amin(0) - cutoff, part.amax(0) + cutoff
        near = ((seen.points > low) & (seen.points < high)).all(1).nonzero().squeeze(1)
        yield Tile(rows, part, seen, near, cutoff, pairs)


def _sorted_in_space(probes: Tensor, edge: float) -> Tensor:
    """An order of (M, 3) probes that goes through space box by box."""
    box = ((probes - probes.amin(0)) / edge).floor().long()
    sizes = box.amax(0) + 1
    key = (box[:, 0] * sizes[1] + box[:, 1]) * sizes[2] + box[:, 2]
    return torch.argsort(key, stable=True)


class GridTiles:
    """A grid cut into blocks of indices; an atom's sphere is a range of indices along each axis.

    No probe is compared with an atom whose range of indices misses its block.
    """

    def __init__(self, grid: Grid, seen: Images, cutoff: float, size: int, pairs: int) -> None:
        device = seen.points.device
        self.origin = torch.as_tensor(grid.origin, dtype=torch.float64, device=device)
        self.step = torch.as_tensor(grid.step, dtype=torch.float64, device=device)
        self.shape = tuple(int(n) for n in grid.shape)
        self.seen, self.cutoff, self.pairs = seen, cutoff, pairs
        self.block = block_sides(self.step, self.shape, size)
        inverse = torch.linalg.inv(self.step)
        reach = cutoff * torch.linalg.vector_norm(inverse, dim=0)  # (3,) in steps
        centre = (seen.points - self.origin) @ inverse  # (G, 3) in steps
        self.first = (centre - reach).ceil()
        self.last = (centre + reach).floor()

    @property
    def points(self) -> int:
        """How many points the grid has."""
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[tuple[int, Tile | None]]:
        """How many points are dealt with, and each block's tile, or None where no atom reaches."""
        starts = [range(0, n, b) for n, b in zip(self.shape, self.block, strict=True)]
        everything = torch.arange(self.seen.owners.shape[0], device=self.step.device)
        done = 0
        for i in starts[0]:
            slab = self._meeting(0, i, everything)
            for j in starts[1]:
                bar = self._meeting(1, j, slab)
                for k in starts[2]:
                    near = self._meeting(2, k, bar)
                    axes = self._axes((i, j, k))
                    done += math.prod(axis.shape[0] for axis in axes)
                    yield done, self._tile(axes, near) if near.shape[0] else None

    def _meeting(self, axis: int, start: int, among: Tensor) -> Tensor:
        """Those images whose range of indices along an axis meets a block's."""
        stop = start + self.block[axis] - 1
        meets = (self.first[among, axis] <= stop) & (self.last[among, axis] >= start)
        return among[meets]

    def _axes(self, start: tuple[int, int, int]) -> list[Tensor]:
        return [
            torch.arange(a, min(a + b, n), device=self.step.device)
            for a, b, n in zip(start, self.block, self.shape, strict=True)
        ]

    def _tile(self, axes: list[Tensor], near: Tensor) -> Tile:
        i, j, k = (m.flatten() for m in torch.meshgrid(*axes, indexing="ij"))
        probes = self.origin + torch.stack((i, j, k), 1).double() @ self.step
        rows = (i * self.shape[1] + j) * self.shape[2] + k
        return Tile(rows, probes, self.seen, near, self.cutoff, self.pairs)


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
