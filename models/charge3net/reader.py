"""ChargE3Net's densities at tiles of probes within a memory budget, nothing computed twice.

A probe edge costs one row of a table, one dot product a channel and one addition.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from neupol_cli.errors import out_of_memory
from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.radial_table import Spots

if TYPE_CHECKING:
    from neupol_cli.models.charge3net.kernels.probe_kernel import ProbeKernel
    from neupol_cli.models.charge3net.network import AtomFeatures, ChargE3Net

# Tiles and edges at a time: on a CPU as much as stays in its cache, on a GPU enough to fill it.
PROBES = {"cpu": 2048, "cuda": 65536}
EDGES = {"cpu": 4096, "cuda": 1 << 18}
# The dense part of a tile takes a multiple of so many rows.
ROUNDED = 256
# Tiles smaller than this cost more than they compute; no budget makes them smaller.
LEAST = 64


def limits(memory: int, width: int, item: int, device: str) -> tuple[int, int, int]:
    """How many probes, edges, and probe-image pairs to hold at a time, to allocate no more.

    Args:
        memory: bytes, the result not counted.
        width: columns that are summed onto a probe.
        item: bytes of a number.
        device: kind of device.
    """
    probe = 4 * width * item + 64  # the sums, their pieces and the probe's scalars
    edge = 4 * width * item + 400  # table row, products, geometry
    pair = 64  # a float64 vector, its square, a distance, a flag
    return (
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

    def __init__(self, network: ChargE3Net, features: AtomFeatures, memory: int) -> None:
        self.network, self.features = network, features
        like, width = features.points.positions, network.probes.width
        held = limits(memory, width, like.element_size(), like.device.type)
        self.probes, self.edges, self.pairs = held
        self.dtype = like.dtype
        self.cutoff = network.config.cutoff
        widths = [source.shape[2] for source in features.sources]
        self.stops = torch.tensor(widths).cumsum(0).tolist()
        self.width = self.stops[-1]
        self.kernel: ProbeKernel | None = None
        self.vacuum_density = self._finish(self._zeros(1), self._zeros(1)[:, 0])  # (1,) or (1, 2)

    def _zeros(self, rows: int) -> Tensor:
        return self.features.points.positions.new_zeros(rows, self.width)

    def evaluate(self, tile: Tile) -> tuple[Tensor, Tensor]:
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
                from neupol_cli.models.charge3net.kernels.probe_kernel import ProbeKernel

                self.kernel = ProbeKernel(self.network, self.features, self.pairs)
            return self.kernel.sums(tile)
        except Exception as error:  # compilers, drivers and caches fail with types of their own
            if out_of_memory(error):
                raise
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
        """Consecutive edges, at most ``edges`` at a time: [(owner, edges)], their slice."""
        pieces: list[tuple[int, int]] = []
        start = held = 0
        for owner, count in zip(tile.atom_index, tile.counts, strict=True):
            while count:
                taken = min(count, self.edges - held)
                pieces.append((owner, taken))
                held, count = held + taken, count - taken
                if held == self.edges:
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
