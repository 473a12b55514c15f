"""Densities at many points: tiles of probes within a memory budget, nothing computed twice.

What a structure's atoms contribute is prepared once; a probe edge then costs one row of a table,
one dot product a channel and one addition. Probes that no atom reaches share one constant.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from neupol_cli.errors import BadInput
from neupol_cli.models.graph import Edges
from neupol_cli.models.probes import Grid, GridTiles, Tile, images, inside, scattered_tiles
from neupol_cli.models.radial_table import Spots

if TYPE_CHECKING:
    from neupol_cli.models.charge3net import AtomFeatures, ChargE3Net
    from neupol_cli.models.probe_kernel import ProbeKernel

# Tiles and edges at a time: on a CPU as much as stays in its cache, on a GPU enough to fill it.
PROBES = {"cpu": 2048, "cuda": 65536}
EDGES = {"cpu": 4096, "cuda": 1 << 18}
# The dense part of a tile takes a multiple of so many rows.
ROUNDED = 256
# Tiles smaller than this cost more than they compute; no budget makes them smaller.
LEAST = 64


@dataclass(frozen=True)
class Limits:
    """How many probes, edges, and probe-image pairs are held at a time."""

    probes: int
    edges: int
    pairs: int

    @classmethod
    def within(cls, memory: int, width: int, item: int, device: str) -> Limits:
        """Limits that keep what is allocated below ``memory`` bytes, the result not counted.

        Args:
            memory: bytes.
            width: columns that are summed onto a probe.
            item: bytes of a number.
            device: kind of device.
        """
        probe = 4 * width * item + 64  # the sums, their pieces and the probe's scalars
        edge = 4 * width * item + 400  # table row, products, geometry
        pair = 64  # a float64 vector, its square, a distance, a flag
        return cls(
            _between(memory // 3 // probe, PROBES.get(device, PROBES["cpu"])),
            _between(memory // 3 // edge, EDGES.get(device, EDGES["cpu"])),
            _between(memory // 3 // pair, 1 << 22),
        )


def _between(wanted: int, most: int) -> int:
    return max(LEAST, min(wanted, most))


class Reader:
    """A structure's density at tiles of probes.

    On a GPU a fused kernel sums over neighbours, where Triton is installed and runs; everywhere
    else, in float64, and where it fails, PyTorch does: the reference.
    """

    # What it failed of is the machine's or the network's: it is tried, and told of, once.
    kernel_failed: ClassVar[bool] = False

    def __init__(self, network: ChargE3Net, features: AtomFeatures, limits: Limits) -> None:
        self.network, self.features, self.limits = network, features, limits
        self.dtype = features.points.positions.dtype
        self.cutoff = network.config.cutoff
        widths = [source.shape[2] for source in features.sources]
        self.stops = torch.tensor(widths).cumsum(0).tolist()
        self.width = self.stops[-1]
        self.kernel: ProbeKernel | None = None
        self.empty = self._finish(self._zeros(1), self._zeros(1)[:, 0])  # (1,) or (1, 2)

    def _zeros(self, rows: int) -> Tensor:
        return self.features.points.positions.new_zeros(rows, self.width)

    def read(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """The rows of those probes that an atom reaches, and their densities."""
        fused = self._fused(tile)
        if fused is not None:
            probes, summed, spherical = fused
            return tile.rows[probes], self._finish(summed, spherical)
        reached = torch.zeros(tile.rows.shape[0], dtype=torch.bool, device=tile.rows.device)
        reached[tile.receivers] = True
        place = (reached.cumsum(0) - 1)[tile.receivers]
        count = int(reached.sum())
        # Rounded up: oneDNN compiles a product anew for every number of rows that it meets.
        rows = -(-count // ROUNDED) * ROUNDED
        summed, spherical = self._zeros(rows), self._zeros(rows)[:, 0].clone()
        for pieces, edges in self._portions(tile):
            self._add(summed, spherical, place[edges], tile.vectors[edges], pieces)
        return tile.rows[reached], self._finish(summed, spherical)[:count]

    def _fused(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor] | None:
        """What :meth:`ProbeKernel.sums` finds, or None where it does not serve."""
        if Reader.kernel_failed or not kernel_serves(self.features):
            return None
        try:
            if self.kernel is None:
                from neupol_cli.models.probe_kernel import ProbeKernel

                self.kernel = ProbeKernel(self.network, self.features, self.limits.pairs)
            return self.kernel.sums(tile)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers, drivers and caches fail with types of their own
            Reader.kernel_failed = True
            reason = (str(error).splitlines() or [""])[0]
            logging.getLogger("neupol").warning(
                "the fused probe kernel does not run here (%s: %s); PyTorch computes the density, "
                "the same but slower",
                type(error).__name__,
                reason,
            )
            return None

    def _portions(self, tile: Tile) -> Iterator[tuple[list[tuple[int, int]], slice]]:
        """Consecutive edges, at most ``limits.edges`` at a time: [(owner, edges)], their slice."""
        pieces: list[tuple[int, int]] = []
        start = held = 0
        for owner, count in zip(tile.owners, tile.counts, strict=True):
            while count:
                taken = min(count, self.limits.edges - held)
                pieces.append((owner, taken))
                held, count = held + taken, count - taken
                if held == self.limits.edges:
                    yield pieces, slice(start, start + held)
                    start, held, pieces = start + held, 0, []
        if held:
            yield pieces, slice(start, start + held)

    def _add(
        self,
        summed: Tensor,
        spherical: Tensor,
        receivers: Tensor,
        vectors: Tensor,
        pieces: list[tuple[int, int]],
    ) -> None:
        """Adds what some edges bring: harmonics . sources, times R, onto their probes."""
        edges = Edges(receivers, receivers, vectors.to(self.dtype))
        harmonics = self.network.harmonics(edges.directions)
        messages = self._radial(edges.lengths)
        scalars = self.stops[0]
        coupled = messages.new_empty(messages.shape[0], self.width - scalars)
        row = 0
        for owner, count in pieces:
            part = slice(row, row + count)
            # Y_0 is one: a product with it is a row, not a matrix.
            messages[part, :scalars].mul_(self.features.sources[0][owner])
            self._couple(coupled[part], harmonics[part], owner)
            row += count
        messages[:, scalars:].mul_(coupled)
        summed.index_add_(0, receivers, messages)
        atoms = self.network.promolecule
        if atoms is not None:
            owners = torch.tensor([p[0] for p in pieces], device=receivers.device)
            counts = torch.tensor([p[1] for p in pieces], device=receivers.device)
            types = self.features.types[owners].repeat_interleave(counts)
            spherical.index_add_(0, receivers, atoms(edges.squared, types))

    def _couple(self, out: Tensor, harmonics: Tensor, owner: int) -> None:
        """Edges of one atom, l > 0: harmonics (E, (lmax+1)^2) times its sources -> (E, columns)."""
        start = 0
        for degree, source in enumerate(self.features.sources[1:], 1):
            part = harmonics[:, degree**2 : (degree + 1) ** 2]
            stop = start + source.shape[2]
            torch.mm(part, source[owner], out=out[:, start:stop])
            start = stop

    def _radial(self, lengths: Tensor) -> Tensor:
        table = self.features.table
        if table is None:
            return self.network.probes.radial(lengths, self.network.basis(lengths))
        return Spots.of(lengths, table.shape[0] // 2, self.cutoff).read(table)

    def _finish(self, summed: Tensor, spherical: Tensor) -> Tensor:
        return self.network.finish(summed, spherical)


def kernel_serves(features: AtomFeatures) -> bool:
    """Whether the fused kernel can read these features: the one place where that is decided.

    It has no derivatives, no float64 and harmonics up to Y_4. TRITON_INTERPRET=1 runs it on a
    CPU, for tests.
    """
    points = features.points.positions
    runs = points.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    fits = points.dtype == torch.float32 and features.table is not None
    if not runs or not fits or len(features.sources) > 5 or torch.is_grad_enabled():
        return False
    return find_spec("triton") is not None


def at_probes(network: ChargE3Net, features: AtomFeatures, probes: Tensor, memory: int) -> Tensor:
    """Densities at any (M, 3) points: (M,) or (M, 2) e/Angstrom^3."""
    probes = probes.detach().to(features.points.positions.device, torch.float64)
    limits = _limits(network, features, memory)
    reader = Reader(network, features, limits)
    found = reader.empty.repeat(probes.shape[0], *[1] * (reader.empty.dim() - 1))
    if not probes.shape[0]:
        return found
    seen = images(features.points, reader.cutoff, *inside(features.points, probes[None]))
    for part in scattered_tiles(probes, seen, reader.cutoff, limits.probes, limits.pairs):
        rows, values = reader.read(part)
        found[rows] = values
    return found


def on_grid(
    network: ChargE3Net,
    features: AtomFeatures,
    grid: Grid,
    memory: int,
    progress: Callable[[int, int], Any] | None,
) -> Tensor:
    """Densities on a regular grid, C order: (n1 n2 n3,) or (n1 n2 n3, 2) e/Angstrom^3."""
    limits = _limits(network, features, memory)
    reader = Reader(network, features, limits)
    corners = _corners(grid).to(features.points.positions.device)
    seen = images(features.points, reader.cutoff, *inside(features.points, corners[None]))
    tiles = GridTiles(grid, seen, reader.cutoff, limits.probes, limits.pairs)
    total = tiles.points
    found = reader.empty.repeat(total, *[1] * (reader.empty.dim() - 1))
    for done, part in tiles:
        if part is not None:
            rows, values = reader.read(part)
            found[rows] = values
        if progress is not None:
            progress(done, total)
    return found


def _limits(network: ChargE3Net, features: AtomFeatures, memory: int) -> Limits:
    positions = features.points.positions
    if features.points.size != 1:
        raise BadInput(f"one structure at a time: these are the features of {features.points.size}")
    return Limits.within(
        memory, network.probes.width, positions.element_size(), positions.device.type
    )


def _corners(grid: Grid) -> Tensor:
    """(8, 3) float64: the grid's outermost points."""
    origin = torch.as_tensor(grid.origin, dtype=torch.float64)
    step = torch.as_tensor(grid.step, dtype=torch.float64)
    ends = [torch.tensor([0.0, int(n) - 1.0], dtype=torch.float64) for n in grid.shape]
    return origin + torch.cartesian_prod(*ends) @ step
