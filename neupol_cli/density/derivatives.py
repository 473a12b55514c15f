"""A density with its gradient and Hessian, by automatic differentiation, at points and on grids.

Only probes need derivatives: on a grid a structure's atoms are encoded once, and a block of points
reads those of them that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from neupol_cli.density.on_grid import within_memory
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.density.grid_tiles import Block, GridTiles
from neupol_cli.models.density.images import Images, fractional_bounds, periodic_images
from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.workers import Budget, in_order

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.density.model import DensityModel, EncodedAtoms

Held = TypeVar("Held")
# (P,) e/Angstrom^3, (P, 3) and (P, 3, 3) by Angstrom.
Derivatives = tuple[np.ndarray, np.ndarray, np.ndarray]
# Points of a block: in larger ones more atoms reach a few points only, and take room for all.
POINTS = {"cpu": 128, "cuda": 2048}
# As many points, all of them at a nucleus, tell what one of them takes.
SAMPLE = 32


def derivatives(model: DensityModel, atoms: Atoms, points: np.ndarray) -> Derivatives:
    """Density (P,) e/Angstrom^3, gradient (P, 3) and Hessian (P, 3, 3) at points (P, 3) Angstrom.

    ``model(graph, probes)`` must be twice differentiable by its probes; its weights decide the
    type of number, and float64 is meant.
    """
    like = next(model.parameters())
    graph = Graph.from_atoms([atoms], like.dtype, like.device)
    probes = torch.as_tensor(points, device=like.device, dtype=like.dtype)
    return _derivatives(lambda probes: model(graph, probes), probes)


def _derivatives(
    density_at: Callable[[Tensor], Tensor], points: Tensor, second: bool = True
) -> Derivatives:
    """Of a function of probes (1, P, 3), at points (P, 3); Hessians are 0 unless ``second``."""
    probes = points[None].detach().requires_grad_(True)
    density = density_at(probes)
    density = density if density.dim() == 1 else density[:, 0]
    slope = _gradient(density.sum(), probes, second)
    hessian = slope.new_zeros(len(slope), 3, 3)
    if second:
        rows = [_gradient(slope[:, axis].sum(), probes, axis < 2) for axis in range(3)]
        hessian = torch.stack(rows, dim=1)
    arrays = [item.detach().cpu().double().numpy() for item in (density, slope, hessian)]
    return arrays[0], arrays[1], arrays[2]


def _gradient(value: Tensor, probes: Tensor, more: bool) -> Tensor:
    """(P, 3): the slope of a sum over probes, to be differentiated again where ``more``."""
    if not value.requires_grad:  # every probe is out of every atom's reach
        return torch.zeros_like(probes[0])
    (gradient,) = torch.autograd.grad(value, probes, create_graph=more, materialize_grads=True)
    return gradient[0]


@dataclass(frozen=True)
class Near:
    """Who reaches a block of points.

    Attributes:
        atom_index: (K,) points of the structure an image of which may reach the block, ascending.
        padded_images: K times the most images that one of them has there.
    """

    atom_index: Tensor
    padded_images: int

    @classmethod
    def to(cls, probes: Tensor, images: Images, among: Tensor, cutoff: float) -> Near:
        """Of the images ``among`` (N,) those within the cutoff of the box around (P, 3) probes."""
        low, high, places = probes.amin(0), probes.amax(0), images.points[among]
        apart = torch.maximum(low - places, places - high).clamp(min=0)
        # The margin: rounding must not hide an image that just reaches a probe.
        met = among[apart.square().sum(1) < cutoff**2 * (1 + 1e-9)]
        atom_index, counts = images.atom_index[met].unique(return_counts=True)
        return cls(atom_index, len(atom_index) * int(counts.max()) if len(atom_index) else 0)


class Field:
    """One structure's density and derivatives on grids, within a budget of memory.

    Args:
        model: a density network; its weights decide the type of number, and float64 is meant.
        atoms: the structure, encoded here.
        memory: bytes for a block; less once they turn out not to be there.
        second: whether Hessians are wanted; they are most of the work.
    """

    def __init__(self, model: DensityModel, atoms: Atoms, memory: int, second: bool = True) -> None:
        self.model, self.memory, self.second = model, memory, second
        self.cutoff: float = model.config.cutoff
        self.features = model.atom_features(atoms)
        self.points: Graph = self.features.points
        density = model.tile_evaluator(self.features, memory).vacuum_density.detach().cpu().double()
        # Where no atom is near, the density is one number; a second one is its spin.
        self.empty = density.numpy().reshape(-1)[:1], np.zeros((1, 3)), np.zeros((1, 3, 3))
        self.slot = self._slot()

    def blocks(self, grid: Grid) -> Iterator[tuple[int, Tensor, Derivatives]]:
        """Of each block that atoms reach: points dealt with by then, (P,) its own, what is there.

        Raises:
            TemporaryError: not even small parts of a block fit in memory.
        """
        corners = grid.origin + np.indices((2, 2, 2)).reshape(3, -1).T @ grid.box
        images = self._seen(torch.from_numpy(corners))
        size = POINTS.get(self.points.positions.device.type, POINTS["cpu"])
        tiles, budget = GridTiles(grid, images, self.cutoff, size, 1), Budget(self.memory)

        def reached(block: Block) -> tuple[int, Tensor, Derivatives] | None:
            tile = tiles.tile(block)
            return None if tile is None else (block.done, tile.rows, self._block(tile, budget))

        return filter(None, in_order(reached, tiles.blocks()))

    def _block(self, tile: Tile, budget: Budget) -> Derivatives:
        near = Near.to(tile.probes, tile.images, tile.near, self.cutoff)
        point = self.slot * max(1, near.padded_images)

        def within(memory: int) -> Derivatives:
            self.memory = memory  # what is too much for this block is so for the next one
            most = max(1, memory // point)
            parts = [self._part(probes, near.atom_index) for probes in tile.probes.split(most)]
            density, slope, hessian = map(np.concatenate, zip(*parts, strict=True))
            return density, slope, hessian

        with budget.taken(point * len(tile.probes)):
            return within_memory(within, self.memory)

    def _part(self, probes: Tensor, atom_index: Tensor) -> Derivatives:
        """Derivatives at (P, 3) probes that only the atom_index (K,) reach."""
        if not len(atom_index):
            density, slope, hessian = (array.repeat(len(probes), 0) for array in self.empty)
            return density, slope, hessian
        features = chosen(self.features, atom_index)
        points = probes.to(self.points.positions.dtype)
        return _derivatives(lambda at: self.model.at(features, at), points, self.second)

    def _seen(self, probes: Tensor) -> Images:
        """Whatever may reach the box around (M, 3) probes."""
        probes = probes.to(self.points.positions.device)
        return periodic_images(
            self.points, self.cutoff, *fractional_bounds(self.points, probes[None])
        )

    def _slot(self) -> int:
        """Bytes that an image takes at a point that it reaches: all that derivatives keep."""
        probes = self.points.positions[:1].double().expand(SAMPLE, 3)
        images = self._seen(probes)
        every = torch.arange(len(images.atom_index), device=probes.device)
        near, taken = Near.to(probes, images, every, self.cutoff), [0]

        def note(saved: Tensor) -> Tensor:
            taken[0] += saved.nbytes
            return saved

        with saved_tensors_hooks(note, lambda saved: saved):
            self._part(probes, near.atom_index)
        return max(1, taken[0] // (SAMPLE * near.padded_images))


def chosen(features: EncodedAtoms, atom_index: Tensor) -> EncodedAtoms:
    """A structure's features as if it had but the points ``atom_index`` (K,), for probes to read.

    Whatever has a row a point keeps the rows of these. Of movable points only the atoms have
    numbers; no probe reads those.
    """
    assert is_dataclass(features) and not isinstance(features, type)  # as every network's are
    points = features.points
    count = points.positions.shape[0]

    def rows(held: Held) -> Held:
        if isinstance(held, Tensor) and held.shape[:1] == (count,):
            return held[atom_index]
        return held

    fewer = replace(
        points,
        numbers=rows(points.numbers),
        positions=rows(points.positions),
        batch=rows(points.batch),
        counts=torch.full_like(points.counts, len(atom_index)),
    )
    parts = {
        field.name: tree_map(rows, getattr(features, field.name)) for field in fields(features)
    }
    return replace(features, **parts | {"points": fewer})
