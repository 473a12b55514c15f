"""Probes by the tile: some that lie together, with the edges that reach them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neupol_cli.models.density.images import Images
from neupol_cli.models.nn.graph import counted


@dataclass(frozen=True)
class Tile:
    """Some probes and the edges that reach them, which are found when they are first asked for.

    Attributes:
        rows: (P,) where their densities belong.
        probes: (P, 3) Angstrom, float64.
        images: of a structure's atoms.
        near: (N,) those images that may reach a probe, ascending.
        cutoff: Angstrom.
        pairs: how many distances are held at a time.
    """

    rows: Tensor
    probes: Tensor
    images: Images
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
    def senders(self) -> Tensor:
        """(E,) the atom that each edge begins at, of one of its images."""
        return self.images.atom_index[self.near].repeat_interleave(self._edges[2])

    @cached_property
    def counts(self) -> list[int]:
        """Of each image that is near, how many of the edges begin there."""
        return self._edges[2].tolist()

    @cached_property
    def atom_index(self) -> list[int]:
        """Of each image that is near, the atom that it is an image of."""
        return self.images.atom_index[self.near].tolist()

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Receivers, vectors, counts.

        Distances are float64, whatever the network's numbers are: the density jumps where an
        atom enters a probe's sphere.
        """
        counts, receivers, vectors = [self.near[:0]], [self.near[:0]], [self.probes[:0]]
        for part in self.near.split(max(1, self.pairs // self.probes.shape[0])):
            points = self.images.points[part]
            x, y, z = (p - q[:, None] for p, q in zip(self.probes.T, points.T, strict=True))
            inside = x.square_().add_(y.square_()).add_(z.square_()) < self.cutoff**2  # (N, P)
            image, probe = inside.nonzero(as_tuple=True)
            counts.append(counted(image, part.shape[0]))
            receivers.append(probe)
            vectors.append(self.probes[probe] - points[image])
        return torch.cat(receivers), torch.cat(vectors), torch.cat(counts)


def scattered_tiles(
    probes: Tensor, images: Images, cutoff: float, size: int, pairs: int
) -> Iterator[Tile]:
    """Any probes in tiles of neighbouring ones.

    Args:
        probes: (M, 3) Angstrom, float64.
        images: of a structure's atoms.
        cutoff: Angstrom.
        size: at most so many probes a tile.
        pairs: how many distances a tile holds at a time.
    """
    order = _sorted_in_space(probes, 0.6 * cutoff)
    for rows in order.split(size):
        part = probes[rows]
        low, high = part.amin(0) - cutoff, part.amax(0) + cutoff
        near = ((images.points > low) & (images.points < high)).all(1).nonzero().squeeze(1)
        yield Tile(rows, part, images, near, cutoff, pairs)


def _sorted_in_space(probes: Tensor, edge: float) -> Tensor:
    """An order of (M, 3) probes that goes through space box by box."""
    box = ((probes - probes.amin(0)) / edge).floor().long()
    sizes = box.amax(0) + 1
    key = (box[:, 0] * sizes[1] + box[:, 1]) * sizes[2] + box[:, 2]
    return torch.argsort(key, stable=True)
