"""Densities at many points: what every density network offers, and its probes tile by tile.

What a structure's atoms contribute is prepared once, for any number of probes. Probes that no atom
reaches share one constant, the vacuum density.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import ClassVar, Generic, Protocol, TypeVar

import ase
import torch
from torch import Tensor

from neupol_cli.errors import DivergedError, InputError
from neupol_cli.models import processes, workers
from neupol_cli.models.base import Model, Network, Task
from neupol_cli.models.calibration import Calibration, structure_features
from neupol_cli.models.density.grid_tiles import Block, Grid, GridTiles
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.tiles import Tile, scattered_tiles
from neupol_cli.models.nn.elements import Elements, check_elements
from neupol_cli.models.nn.graph import Graph

LARGEST = 1e30  # e/Angstrom^3: float32 still holds its products with a cell's volume
# Bytes that a density may use besides its result, unless it is told otherwise.
MEMORY = 1 << 30
TOGETHER = 4  # blocks of a grid that are handed out at once


class DensityConfig(Protocol):
    """What every density network's configuration has.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        cutoff: Angstrom, from an atom to the probes and atoms that see it.
        spin: whether the density has two columns, total and up - down.
        probes: drawn from each structure in a step of training.
        sampling_exponent: they are drawn in proportion to density to this power.
    """

    @property
    def species(self) -> tuple[int, ...]: ...
    @property
    def cutoff(self) -> float: ...
    @property
    def spin(self) -> bool: ...
    @property
    def probes(self) -> int: ...
    @property
    def sampling_exponent(self) -> float: ...


class SphericalAtoms(Protocol):
    """A density of spherical atoms, on which a network's own is added."""

    def shells(self, squared: Tensor) -> Tensor:
        """(E,) squared distances -> (E, K) Gaussians."""

    def fit(self, design: Tensor, density: Tensor) -> None:
        """Least squares for the coefficients."""


class EncodedAtoms(Protocol):
    """What probes read of some structures, in the network's own form.

    Attributes:
        points: that send to them, with the numbers of the A atoms alone.
        invariants: (points, K) their scalars in the end.
        layer_invariants: (points, S) those after every layer, the atoms' rows first.
    """

    @property
    def points(self) -> Graph: ...
    @property
    def invariants(self) -> Tensor: ...
    @property
    def layer_invariants(self) -> Tensor: ...


Features = TypeVar("Features", bound=EncodedAtoms)


class TileEvaluator(Protocol):
    """One structure's density at tiles of probes.

    Attributes:
        cutoff: Angstrom.
        probes, pairs: how many probes, and probe-image pairs, are held at a time.
        tile_bytes: about what a tile takes while it is evaluated, at most.
        vacuum_density: (1,) or (1, 2), the density where no atom is near.
    """

    cutoff: float
    probes: int
    pairs: int
    tile_bytes: int
    vacuum_density: Tensor

    def evaluate(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Rows of the result that an atom reaches, and their densities; several threads at once,
        each with a tile."""


class DensityModel(Model, Network, Generic[Features]):
    """From a structure to its electron density in e/Angstrom^3, at any point.

    A subclass implements :meth:`prepared`, :meth:`at` and :meth:`tile_evaluator`; ``Features`` is
    what its probes read.

    Attributes:
        atom_calibration: how far off it may be around an atom; None where nobody has looked.
    """

    task: ClassVar[Task] = "density"
    promolecule: SphericalAtoms | None
    types: Elements  # from atomic numbers to their places in the configuration
    config: DensityConfig  # type: ignore[assignment]  # a dataclass, of which a protocol cannot say
    atom_calibration: Calibration | None

    def __init__(self) -> None:
        super().__init__()
        self.atom_calibration = None

    @property
    def targets(self) -> dict[str, str]:
        """The density, and with spin that of the spins: name -> unit."""
        return {"density": "e/Angstrom^3"}

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that the network has a place for."""
        return self.config.species

    @property
    def cutoff(self) -> float:
        """Angstrom."""
        return self.config.cutoff

    @property
    def invariants(self) -> int:
        """How many scalars a point has in the end."""
        raise NotImplementedError

    @property
    def layer_invariants(self) -> int:
        """How many it has after all layers together: probes read every one of them."""
        raise NotImplementedError

    def uncalibrated(self) -> Calibration:
        """A calibration of this network's size, with nothing in it yet."""
        return Calibration(self.invariants + 1, 1)

    def uncalibrated_atoms(self) -> Calibration:
        """The same of the surroundings of atoms."""
        return Calibration(self.layer_invariants, 1)

    def described(self, features: Features) -> Tensor:
        """(B, F) what the structures are to the network, to tell how far off it may be."""
        return structure_features(features.invariants, features.points)

    def described_atoms(self, features: Features) -> Tensor:
        """(A, F) what the atoms are to the network, without their movable points."""
        return features.layer_invariants[: features.points.numbers.shape[0]]

    @torch.no_grad()
    def uncertainty(self, features: Features) -> float | None:
        """eps_mae (percent) of one structure that nine in ten are below; None if nobody knows.

        Raises:
            DivergedError: it is not finite.
        """
        if self.calibration is None:
            return None
        bound = self.calibration(self.described(features))
        _check_finite(bound)
        return float(bound)

    @torch.no_grad()
    def atom_uncertainty(self, features: Features) -> Tensor | None:
        """(A,) electrons: the integral of the error nearest to each atom, which nine in ten are
        below; None if nobody knows.

        Raises:
            DivergedError: it is not finite.
        """
        if self.atom_calibration is None:
            return None
        bounds = self.atom_calibration(self.described_atoms(features))[:, 0]
        _check_finite(bounds)
        return bounds

    def prepared(self, graph: Graph) -> Features:
        """What probes read of a graph's structures; for predictions, without gradients."""
        raise NotImplementedError

    def at(self, features: Features, probes: Tensor) -> Tensor:
        """Densities at the same number of probes of each of B structures.

        Args:
            features: of the structures.
            probes: (B, P, 3) Angstrom; differentiable.

        Returns:
            (B P,), or (B P, 2) with spin: e/Angstrom^3.
        """
        raise NotImplementedError

    def tile_evaluator(self, features: Features, memory: int) -> TileEvaluator:
        """The evaluator of one structure's density, within so many bytes."""
        raise NotImplementedError

    @torch.no_grad()
    def atom_features(self, structure: ase.Atoms) -> Features:
        """What probes read of a structure, once for any number of probes.

        Raises:
            InputError: an element that the network never saw.
        """
        check_elements(structure, self.species, "the structure")
        return self.prepared(Graph.from_atoms([structure], self.dtype, self.device))

    @torch.no_grad()
    def density(
        self, structure: ase.Atoms | Features, probes: Tensor, memory: int = MEMORY
    ) -> Tensor:
        """The density at any points.

        Args:
            structure: one structure, or its features from :meth:`atom_features`.
            probes: (M, 3) Angstrom; float64 keeps a probe at the cutoff on its side of it.
            memory: bytes that may be used besides the result.

        Returns:
            (M,) e/Angstrom^3, or (M, 2) with spin: (total, up - down).

        Raises:
            InputError: an element that the network never saw, or features of several structures.
            DivergedError: a density that is not finite.
        """
        points, evaluator = self._evaluator(structure, memory)
        probes = probes.detach().to(points.positions.device, torch.float64)
        density = _vacuum(evaluator, probes.shape[0])
        if not probes.shape[0]:
            return density
        cutoff = evaluator.cutoff
        images = periodic_images(points, cutoff, *fractional_bounds(points, probes[None]))
        tiles = scattered_tiles(probes, images, cutoff, evaluator.probes, evaluator.pairs)
        at_once = memory // evaluator.tile_bytes
        for rows, values in workers.in_order(evaluator.evaluate, tiles, at_once):
            density[rows] = values
        _check_finite(density)
        return density

    @torch.no_grad()
    def density_grid(
        self,
        structure: ase.Atoms | Features,
        grid: Grid,
        memory: int = MEMORY,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """The density on a regular grid.

        Args:
            structure: one structure, or its features from :meth:`atom_features`.
            grid: origin (3,), step (3, 3) with voxel vectors as rows, Angstrom, shape (n1, n2, n3).
            memory: bytes that may be used besides the result.
            progress: called with (points dealt with, points in all) after every few tiles.

        Returns:
            (n1 n2 n3,), or (n1 n2 n3, 2) with spin, the last index fastest; e/Angstrom^3.

        Raises:
            InputError, DivergedError: as :meth:`density`.
        """
        points, evaluator = self._evaluator(structure, memory)
        corners, cutoff = _corners(grid).to(points.positions.device), evaluator.cutoff
        images = periodic_images(points, cutoff, *fractional_bounds(points, corners[None]))
        tiles = GridTiles(grid, images, cutoff, evaluator.probes, evaluator.pairs)
        density = processes.shared(_vacuum(evaluator, tiles.points))

        def evaluated(blocks: Sequence[Block]) -> int:
            for block in blocks:
                if (tile := tiles.tile(block)) is not None:
                    rows, values = evaluator.evaluate(tile)
                    density[rows] = values
            return blocks[-1].done

        blocks, at_once = tiles.blocks(), memory // evaluator.tile_bytes
        some = iter(lambda: list(islice(blocks, TOGETHER)), [])
        for done in workers.in_order(evaluated, some, at_once, apart=True):
            if progress is not None:
                progress(done, tiles.points)
        _check_finite(density)
        return density

    def _evaluator(
        self, structure: ase.Atoms | Features, memory: int
    ) -> tuple[Graph, TileEvaluator]:
        """One structure's points and the evaluator of its density."""
        features = self._features(structure)
        count = features.points.size
        if count != 1:
            raise InputError(f"one structure at a time: these are the features of {count}")
        return features.points, self.tile_evaluator(features, memory)

    def _features(self, structure: ase.Atoms | Features) -> Features:
        """What probes read of a structure, computed unless it is given."""
        if not isinstance(structure, ase.Atoms):
            return structure
        self.check([structure])
        return self.atom_features(structure)


def _vacuum(evaluator: TileEvaluator, rows: int) -> Tensor:
    """(rows,) or (rows, 2) of the density where no atom is near."""
    density = evaluator.vacuum_density
    return density.repeat(rows, *[1] * (density.dim() - 1))


def _check_finite(density: Tensor) -> None:
    """Raises DivergedError for a density that is no number."""
    if not bool((density.abs() < LARGEST).all()):  # of NaN nothing is true
        raise DivergedError(
            "the model's density is not finite: its weights are not sound, or the structure is "
            "far from all that it was trained on"
        )


def _corners(grid: Grid) -> Tensor:
    """(8, 3) float64: the grid's outermost points."""
    origin = torch.as_tensor(grid.origin, dtype=torch.float64)
    step = torch.as_tensor(grid.step, dtype=torch.float64)
    ends = [torch.tensor([0.0, int(n) - 1.0], dtype=torch.float64) for n in grid.shape]
    return origin + torch.cartesian_prod(*ends) @ step
