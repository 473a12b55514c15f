"""From a structure and a density model to a density on a grid, within a budget of memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import InputError, TemporaryError, UsageError, out_of_memory
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing

if TYPE_CHECKING:
    from ase import Atoms
    from torch import Tensor

    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.io.volumetric.augmentation import Augmentation
    from neupol_cli.models.density.model import DensityModel, EncodedAtoms

Result = TypeVar("Result")

Progress = Callable[[int], None]
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*\Z", re.I)
SPACING, MARGIN = 0.2, 3.6  # Angstrom, where nothing is said
LEAST = 32_000_000  # bytes: a tile with less than this is mostly overhead


@dataclass(frozen=True)
class GridChoice:
    """What the user said about the grid; at most one of spacing, counts and source is not None.

    The margin of a source is its own.
    """

    spacing: float | None = None
    counts: tuple[int, int, int] | None = None
    source: Path | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        given = [x for x in (self.spacing, self.counts, self.source) if x is not None]
        if len(given) > 1:
            raise UsageError("choose one of --spacing, --grid and --grid-from")
        if self.source is not None and self.margin is not None:
            raise UsageError("--margin: the grid is that of another file; leave it out")

    @property
    def said(self) -> bool:
        """Whether anything was."""
        return (self.spacing, self.counts, self.source, self.margin) != (None,) * 4

    def grid(self, atoms: Atoms) -> Grid:
        """The grid for a structure; 0.2 Angstrom where nothing was said."""
        if self.source is not None:
            return volumetric.read(self.source).grid
        margin = MARGIN if self.margin is None else self.margin
        if self.counts is not None:
            return by_counts(atoms, self.counts, margin)
        return by_spacing(atoms, SPACING if self.spacing is None else self.spacing, margin)


def parse_counts(text: str | None) -> tuple[int, int, int] | None:
    """``60,60,80`` as three counts.

    Raises:
        UsageError: it is anything else.
    """
    if text is None:
        return None
    words = text.replace("x", ",").split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--grid takes three counts such as 60,60,80, not '{text}'")
    n1, n2, n3 = (int(word) for word in words)
    return n1, n2, n3


def parse_memory(text: str) -> int:
    """``2GB``, ``500MB`` or ``1.5GiB`` in bytes.

    Raises:
        UsageError: it is anything else, or less than 64 MB.
    """
    match = _SIZE.match(text)
    size = int(float(match[1]) * UNITS[match[2].lower()]) if match else 0
    if size < 2 * LEAST:
        raise UsageError(f"--memory takes a size such as 2GB (at least 64MB), not '{text}'")
    return size


def check_size(grid: Grid, memory: int, itemsize: int) -> int:
    """Bytes of the budget that are left for the network; half of it may be the density itself.

    Raises:
        InputError: the grid alone is too big.
    """
    limit = memory // 2 // itemsize
    if grid.size > limit:
        counts = " x ".join(f"{n:,}" for n in grid.shape)
        raise InputError(
            f"a grid of {counts} = {grid.size:.3g} points is beyond the {limit:.3g} that --memory "
            f"{memory / 1e9:.3g}GB allows; take a coarser --spacing, a smaller --margin or more "
            "memory"
        )
    return memory - grid.size * itemsize


@dataclass(frozen=True)
class Predicted:
    """A density and what it cost: seconds of the atoms' part and of the probes' part."""

    volume: Volume
    features: EncodedAtoms  # what the model's `density` takes for further probes
    atom_seconds: float
    probe_seconds: float

    def with_augmentation(self, augmentation: Augmentation | None) -> Predicted:
        """The same with occupancies to be written beside the density."""
        return replace(self, volume=replace(self.volume, augmentation=augmentation))


@dataclass(frozen=True)
class Shard:
    """What one of several processes computes at a time: a slab of the grid around a structure."""

    atoms: Atoms
    slab: Grid
    memory: int

    def density(
        self, model: DensityModel, features: EncodedAtoms, progress: Progress
    ) -> np.ndarray:
        """The density on the slab, (P,) or (P, 2).

        Raises:
            TemporaryError: even small tiles do not fit in memory.
        """

        def evaluate(memory: int) -> Tensor:
            return model.density_grid(
                features, self.slab, memory, lambda done, total: progress(done)
            )

        return as_array(within_memory(evaluate, self.memory))


def predict_shards(asked: ModelChoice, shards: Sequence[Shard]) -> list[np.ndarray]:
    """The densities of a structure's slabs that another process sent."""
    model = asked.model_for(shards[0].atoms)
    features = model.atom_features(shards[0].atoms)
    return [shard.density(model, features, lambda done: None) for shard in shards]


def slabs(grid: Grid, count: int) -> list[Grid]:
    """A grid cut into at most ``count`` pieces along its first axis."""
    count = min(count, grid.shape[0])
    ends = [k * grid.shape[0] // count for k in range(count + 1)]
    return [
        Grid(grid.origin + low * grid.step[0], grid.step, (high - low, *grid.shape[1:]))
        for low, high in pairwise(ends)
    ]


def predict(
    model: DensityModel,
    atoms: Atoms,
    grid: Grid,
    memory: int,
    progress: Progress,
    process_group: ProcessGroup = ALONE,
) -> Predicted:
    """The model's density on a grid. Out of memory, its tiles are halved and the work goes on.

    Args:
        model: the network.
        atoms: the structure.
        grid: where the density is wanted.
        memory: bytes for the network's tiles, in each process.
        progress: is told the points that are done.
        process_group: this process, the first one, among those that serve `predict_shards`.

    Returns:
        The density on the grid, and what it cost.

    Raises:
        TemporaryError: even small tiles do not fit in memory.
        DivergedError: the density is not finite.
    """
    start = time.perf_counter()
    features = model.atom_features(atoms)
    middle = time.perf_counter()

    def evaluate(shards: Sequence[Shard]) -> list[np.ndarray]:
        before = accumulate((shard.slab.size for shard in shards), initial=0)
        report = partial(_report, progress, process_group.world_size)
        return [
            shard.density(model, features, partial(report, points))
            for shard, points in zip(shards, before, strict=False)
        ]

    # Twice as many slabs as processes, dealt in turns: nobody has the thin ends alone.
    pieces = slabs(grid, 2 * process_group.world_size if process_group.world_size > 1 else 1)
    values = process_group.map(evaluate, [Shard(atoms, slab, memory) for slab in pieces])
    end = time.perf_counter()
    whole = values[0] if len(values) == 1 else np.concatenate(values)
    total, spin = split_channels(whole, grid)
    return Predicted(Volume(atoms, grid, total, spin), features, middle - start, end - middle)


def _report(progress: Progress, world: int, before: int, done: int) -> None:
    """All processes are about as far as this one."""
    progress(world * (before + done))


def within_memory(evaluate: Callable[[int], Result], memory: int) -> Result:
    """``evaluate(memory)``, and with half of it for as long as memory runs out.

    Raises:
        TemporaryError: it runs out with next to nothing.
    """
    while True:
        try:
            return evaluate(memory)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if memory < LEAST:
                raise TemporaryError(
                    "out of memory with the smallest tiles; use a coarser grid"
                ) from error
            memory //= 2


def as_array(values: Tensor) -> np.ndarray:
    """A tensor of any device as a numpy array."""
    return np.asarray(values.detach().cpu().numpy())


def sampler(
    model: DensityModel, features: EncodedAtoms, factor: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The model's total density times `factor` at any points, (P, 3) Angstrom -> (P,)."""
    import torch

    def sample(points: np.ndarray) -> np.ndarray:
        density = as_array(model.density(features, torch.from_numpy(points)))
        return factor * (density if density.ndim == 1 else density[:, 0])

    return sample


def split_channels(values: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray | None]:
    """(P,) or (P, 2), or the same on the grid, as total and spin on the grid."""
    if values.size == grid.size:
        return values.reshape(grid.shape), None
    pairs = values.reshape(grid.size, 2)
    return pairs[:, 0].reshape(grid.shape), pairs[:, 1].reshape(grid.shape)
