"""Electrons at points, piece by piece, each with the atoms and images that share in them.

A density on a grid is sharper at a nucleus than its step can follow. What is left of it without its
free atoms is smooth there: that is summed over the grid, and the free atoms are integrated around
their own nuclei, or are known anyway. In cores of all electrons even the difference is too sharp,
between two basis sets, while molecules hardly change them: there it is taken for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from ase import Atoms

from neupol_cli.charges import free_atoms
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.errors import InputError
from neupol_cli.io.volumetric import Grid, Volume
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.workers import in_order

CORE = 10.0  # e/Angstrom^3, which all electrons of carbon have up to 0.2 Angstrom
OFF = 0.05  # of the electrons that a density may miss before it is one of other atoms
EDGE = 12  # points of the grid along each edge of a piece
# Points around a nucleus: spheres, at equal steps of ln r, and on each of them latitudes; a sphere
# has twice as many meridians. Close to the nucleus, where other atoms have little, fewer will do.
SPHERES, INNERMOST = 48, 0.01  # ..., Angstrom
CLOSE, FEW_LATITUDES, LATITUDES = 0.5, 5, 11  # Angstrom, ...
AROUND = 1500  # points around a nucleus that are a piece
Block = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Piece:
    """Some points, what is there, and the atoms that are near.

    Attributes:
        points: (P, 3) Angstrom.
        electrons: (P,) at each point, volume element included; may be negative.
        spin: (P,) the same of up minus down, or None.
        owners: (G,) which atom each of the near ones is, or is an image of.
        centers: (G, 3) where they are, Angstrom.
    """

    points: np.ndarray
    electrons: np.ndarray
    spin: np.ndarray | None
    owners: np.ndarray
    centers: np.ndarray

    def distances(self) -> np.ndarray:
        """(G, P) from each of the near atoms to each point, Angstrom."""
        middle = self.points.mean(axis=0)
        points, centers = self.points - middle, self.centers - middle
        squares = (centers**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squares - 2.0 * centers @ points.T, 0.0)))


class Surroundings:
    """A structure's atoms with their periodic images around a region.

    Args:
        atoms: the structure.
        reach: how far from a point its atoms may be, Angstrom.
        region: (R, 3) corners of what holds all points.
    """

    def __init__(self, atoms: Atoms, reach: float, region: np.ndarray) -> None:
        graph = Graph.from_atoms([atoms], torch.float64)
        low, high = fractional_bounds(graph, torch.from_numpy(region)[None])
        images = periodic_images(graph, reach, low, high)
        self.owners, self.centers = images.atom_index.numpy(), images.points.numpy()
        self.reach = reach

    def near(self, points: np.ndarray) -> np.ndarray:
        """Indices (G,) of those within reach of the box around some points (P, 3)."""
        low, high = points.min(axis=0), points.max(axis=0)
        beyond = np.maximum(np.maximum(low - self.centers, self.centers - high), 0.0)
        return np.flatnonzero((beyond**2).sum(axis=1) <= self.reach**2)

    def piece(self, points: np.ndarray, electrons: np.ndarray, spin: np.ndarray | None) -> Piece:
        """Points with the atoms that are near."""
        near = self.near(points)
        return Piece(points, electrons, spin, self.owners[near], self.centers[near])


@dataclass(frozen=True, eq=False)
class Deformation:
    """A density less its free atoms' (the deformation density), on the density's grid.

    Attributes:
        atoms: (A) the structure.
        grid: where values are.
        values: (n1, n2, n3) e/Angstrom^3.
        spin: the same shape, of up minus down, or None.
        free: A free atoms.
        electrons: of the density before it was scaled, those of the free atoms as they are and the
            difference as the grid sums it up.
        factor: what the density was multiplied by.
    """

    atoms: Atoms
    grid: Grid
    values: np.ndarray
    spin: np.ndarray | None
    free: Sequence[FreeAtom]
    electrons: float
    factor: float

    @property
    def reach(self) -> float:
        """How far an atom is felt, Angstrom."""
        return max(atom.radius for atom in self.free)

    def on_grid(self) -> Iterator[Piece]:
        """What the grid holds."""
        around = Surroundings(self.atoms, self.reach, corners(self.grid))
        element = self.grid.element
        for block in blocks(self.grid):
            electrons = self.values[block].ravel() * element
            spin = None if self.spin is None else self.spin[block].ravel() * element
            yield around.piece(points_of(self.grid, block), electrons, spin)

    def around_nuclei(self) -> Iterator[Piece]:
        """The free atoms, each on spheres around its nucleus."""
        places, corners = self.atoms.positions, np.array(list(product((-1.0, 1.0), repeat=3)))
        region = (places[:, None] + self.reach * corners).reshape(-1, 3)
        around = Surroundings(self.atoms, self.reach, region)
        for place, atom in zip(places, self.free, strict=True):
            points, electrons = spheres(atom)
            for start in range(0, len(points), AROUND):
                some = slice(start, start + AROUND)
                yield around.piece(place + points[some], electrons[some], None)


def deformation(volume: Volume, free: Sequence[FreeAtom], charge: int | None = None) -> Deformation:
    """A density less its free atoms'; zero in cores, and where no atom is near.

    Args:
        volume: the density of A atoms.
        free: A free atoms.
        charge: of the structure; if given, the density is scaled so that charges add up to it.

    Raises:
        InputError: a density without electrons, which cannot be scaled.
    """
    grid = volume.grid
    free_density = promolecule(volume.atoms, grid, free)
    densest = np.inf if free[0].is_valence else CORE
    counts = (free_density > 0.0) & (free_density <= densest)
    values = np.where(counts, volume.values, 0.0)
    free_density[~counts] = 0.0
    summed, summed_free = (float(v.sum()) * grid.element for v in (values, free_density))
    factor = 1.0 if charge is None else _factor(summed, summed_free - charge)
    values *= factor
    values -= free_density
    electrons = sum(atom.electrons for atom in free) + summed - summed_free
    return Deformation(volume.atoms, grid, values, volume.spin, free, electrons, factor)


def _factor(electrons: float, wanted: float) -> float:
    if not electrons > 0.0:
        raise InputError(f"a density of {electrons:.3g} electrons cannot be normalised")
    return wanted / electrons


def free_atoms_of(volume: Volume, charge: int, name: str) -> list[FreeAtom]:
    """The free atoms whose electrons a density holds: the valence ones, or all of them.

    Told by what is left of the density without either: of a coarse grid's sum both would be off.

    Args:
        volume: the density.
        charge: of the structure.
        name: the density's, for messages.

    Raises:
        InputError: it holds neither number of electrons, or there are no such free atoms.
    """
    choices = free_atoms.conventions(volume.atoms.numbers.tolist())
    if not choices:
        raise InputError(f"{name}: there are no free atoms of {volume.atoms.symbols} here")
    counts = [sum(atom.electrons for atom in free) - charge for free in choices]
    found = [deformation(volume, free).electrons for free in choices]
    apart = [abs(n - count) for n, count in zip(found, counts, strict=True)]
    # Hydrogen's are the same electrons twice.
    best = 1 if len(choices) == 2 and apart[1] < apart[0] - 0.5 else 0
    if apart[best] > max(0.5, OFF * counts[best]):
        known = " or ".join(f"{count:g}" for count in counts)
        raise InputError(
            f"{name}: holds {found[best]:.3f} electrons, its free atoms with their charge {known}"
        )
    return choices[best]


def promolecule(atoms: Atoms, grid: Grid, free: Sequence[FreeAtom]) -> np.ndarray:
    """The sum of all free atoms (n1, n2, n3), e/Angstrom^3."""
    around = Surroundings(atoms, max(atom.radius for atom in free), corners(grid))

    def of_block(block: Block) -> tuple[Block, np.ndarray]:
        points = points_of(grid, block)
        piece = around.piece(points, np.zeros(len(points)), None)
        return block, at_distances(piece, piece.distances(), free).sum(axis=0)

    values = np.empty(grid.shape)
    for block, sums in in_order(of_block, blocks(grid)):
        values[block] = sums.reshape(values[block].shape)
    return values


def at_distances(piece: Piece, distances: np.ndarray, free: Sequence[FreeAtom]) -> np.ndarray:
    """Of each near free atom at each point, (G, P) e/Angstrom^3, from the distances (G, P)."""
    found = np.zeros_like(distances)
    kinds = np.array([free[owner].number for owner in piece.owners])
    for number in np.unique(kinds):
        rows = kinds == number
        atom = free[piece.owners[rows.argmax()]]
        found[rows] = atom.density(distances[rows])
    return found


def blocks(grid: Grid) -> Iterator[Block]:
    """The grid in compact pieces."""
    first, second, third = (
        [slice(k, min(k + EDGE, n)) for k in range(0, n, EDGE)] for n in grid.shape
    )
    yield from product(first, second, third)


def points_of(grid: Grid, block: Block) -> np.ndarray:
    """(P, 3) Angstrom, of a piece in C order."""
    i, j, k = (np.arange(axis.start, axis.stop)[:, None] for axis in block)
    along = [index * step for index, step in zip((i, j, k), grid.step, strict=True)]
    sums = along[0][:, None, None] + along[1][None, :, None] + along[2][None, None, :]
    return np.asarray(grid.origin + sums.reshape(-1, 3))


def corners(grid: Grid) -> np.ndarray:
    """(8, 3) of the box that a grid's voxels fill, Angstrom."""
    return np.asarray(grid.origin + np.array(list(product((0.0, 1.0), repeat=3))) @ grid.box)


def spheres(atom: FreeAtom) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) around a free atom's nucleus, sphere by sphere, and electrons (P,) at each."""
    radii = np.geomspace(INNERMOST, atom.radius, SPHERES)
    points, electrons = [], []
    for radius, shell in zip(radii, radii**3 * atom.density(radii), strict=True):
        directions, weights = sphere(FEW_LATITUDES if radius < CLOSE else LATITUDES)
        points.append(radius * directions)
        electrons.append(shell * weights)
    every = np.concatenate(electrons)
    # The sum is what the free atom has; the rule's own error is a matter of scale.
    return np.concatenate(points), every * (atom.electrons / every.sum())


@cache
def sphere(latitudes: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (P, 3) and weights (P,) that add up to one.

    Latitudes by Gauss and Legendre, equal steps of longitude: exact for angular momenta up to
    2 latitudes - 1.
    """
    heights, weights = np.polynomial.legendre.leggauss(latitudes)
    turns = np.pi * np.arange(2 * latitudes) / latitudes
    across = np.sqrt(1.0 - heights**2)[:, None]
    components = [across * np.cos(turns), across * np.sin(turns), heights[:, None] + 0.0 * turns]
    directions = np.stack(components, axis=-1).reshape(-1, 3)
    return directions, weights.repeat(2 * latitudes) / (4 * latitudes)
