"""Tiles: every probe once, and with it every edge that reaches it."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
import pytest
import torch

from neupol_cli.models.density.grid_tiles import GridTiles, block_sides
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.tiles import Tile, scattered_tiles
from neupol_cli.models.nn.graph import Graph

CUTOFF = 2.0


@dataclass(frozen=True)
class Box:
    origin: np.ndarray
    step: np.ndarray
    shape: tuple[int, int, int]


BOX = Box(
    np.array([-3.0, -2.0, -4.0]),
    np.array([[0.9, 0.1, 0.0], [0.0, 0.8, -0.2], [0.3, 0.0, 1.1]]),
    (9, 7, 8),
)


def water() -> Graph:
    atoms = ase.Atoms("OHH", [[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])
    return Graph.from_atoms([atoms], torch.float64)


def grid_points() -> torch.Tensor:
    """(504, 3), the last index fastest."""
    places = np.stack(np.meshgrid(*map(np.arange, BOX.shape), indexing="ij"), -1)
    return torch.from_numpy(BOX.origin + places.reshape(-1, 3) @ BOX.step)


def edges_of(tiles: list[Tile]) -> list[tuple[int, int]]:
    """(row, atom) of every edge, sorted."""
    edges: list[tuple[int, int]] = []
    for tile in tiles:
        rows = tile.rows[tile.receivers].tolist()
        counts = zip(tile.atom_index, tile.counts, strict=True)
        atoms = [atom for atom, count in counts for _ in range(count)]
        edges += zip(rows, atoms, strict=True)
    return sorted(edges)


def expected(points: torch.Tensor) -> list[tuple[int, int]]:
    near = torch.cdist(points, water().positions) < CUTOFF
    return [(row, atom) for row, atom in near.nonzero().tolist()]


@pytest.mark.parametrize(("size", "pairs"), [(1, 1), (40, 7), (10_000, 1 << 20)])
def test_a_grids_tiles_hold_every_edge_once(size: int, pairs: int) -> None:
    tiles = GridTiles(BOX, periodic_images(water(), CUTOFF), CUTOFF, size, pairs)
    blocks = list(tiles.blocks())
    dealt = [block.done for block in blocks]
    reached = [tile for tile in map(tiles.tile, blocks) if tile is not None]
    assert dealt[-1] == tiles.points == 504 and list(dealt) == sorted(set(dealt))
    assert edges_of(reached) == expected(grid_points())
    for tile in reached:
        assert len(tile.rows) <= size
        torch.testing.assert_close(tile.probes, grid_points()[tile.rows])


@pytest.mark.parametrize(("size", "pairs"), [(1, 1), (40, 7), (10_000, 1 << 20)])
def test_scattered_tiles_hold_every_edge_once(size: int, pairs: int) -> None:
    points = grid_points()[torch.randperm(504, generator=torch.Generator().manual_seed(0))]
    images = periodic_images(water(), CUTOFF, *fractional_bounds(water(), points[None]))
    tiles = list(scattered_tiles(points, images, CUTOFF, size, pairs))
    assert sorted(torch.cat([tile.rows for tile in tiles]).tolist()) == list(range(504))
    assert edges_of(tiles) == expected(points)


def test_blocks_are_about_as_long_as_wide() -> None:
    step = torch.diag(torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64))
    assert block_sides(step, (100, 100, 100), 512) == [16, 8, 4]
    assert block_sides(step, (3, 100, 100), 1) == [1, 1, 1]
    assert block_sides(step, (2, 2, 2), 512) == [2, 2, 2]
