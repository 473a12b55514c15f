"""ChargE3Net's densities at tiles of probes within a memory budget, nothing computed twice.

A probe edge costs one row of a table, one dot product a channel and one addition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.probe_loops import ROUNDED, ProbeLoops
from neupol_cli.models.charge3net.kernels.probe_sums import ProbeSums
from neupol_cli.models.charge3net.probe_stack import Mid, ProbeStack, Sums
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.charge3net.radial import GaussianBasis
from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.harmonics import Harmonics
from neupol_cli.models.nn.hermite import TableLookup

# Tiles and edges at a time: on a CPU as much as stays in its cache, on a GPU enough to fill it.
PROBES = {"cpu": 4096, "cuda": 65536}
EDGES = {"cpu": 4096, "cuda": 1 << 18}
PAIRS = {"cpu": 1 << 18, "cuda": 1 << 22}
# Tiles smaller than this cost more than they compute; no budget makes them smaller.
FEWEST = 64


class ProbeNetwork(Protocol):
    """What a probe's density takes, besides the atoms' features."""

    config: ChargE3NetConfig
    harmonics: Harmonics
    basis: GaussianBasis
    probes: ProbeStack
    promolecule: Promolecule | None

    def density_of(self, mids: list[Mid], spherical: Tensor) -> Tensor:
        """What each layer receives and (P,) spherical atoms -> (P,) or (P, 2) e/Angstrom^3."""


class Limits(NamedTuple):
    """How many probes, edges, and probe-image pairs are held at a time, and in how many bytes."""

    probes: int
    edges: int
    pairs: int
    size: int


def limits(memory: int, width: int, item: int, device: str) -> Limits:
    """As many as allocate no more than a budget.

    Args:
        memory: bytes, the result not counted.
        width: columns that are summed onto a probe.
        item: bytes of a number.
        device: kind of device.
    """
    probe = 4 * width * item + 64  # the sums, their pieces and the probe's scalars
    edge = 4 * width * item + 400  # table row, products, geometry
    pair = 64  # a float64 vector, its square, a distance, a flag
    most = (table.get(device, table["cpu"]) for table in (PROBES, EDGES, PAIRS))
    sizes = (probe, edge, pair)
    probes, edges, pairs = (
        _between(memory // 3 // size, n) for size, n in zip(sizes, most, strict=True)
    )
    return Limits(probes, edges, pairs, probes * probe + edges * edge + pairs * pair)


def _between(affordable: int, most: int) -> int:
    return max(FEWEST, min(affordable, most))


class Portion(NamedTuple):
    """Consecutive edges of a tile, sorted by the image that sends.

    Attributes:
        senders: (atom, how many edges are its) one behind the other.
        edges: which of the tile's they are.
    """

    senders: list[tuple[int, int]]
    edges: slice


class TileEvaluator:
    """One structure's density at tiles of probes.

    Args:
        network: whose.
        features: of one structure.
        memory: bytes.
    """

    def __init__(self, network: ProbeNetwork, features: AtomFeatures, memory: int) -> None:
        self.network, self.features = network, features
        self.cutoff, self.width = network.config.cutoff, network.probes.width
        like = features.points.positions
        held = limits(memory, self.width, like.element_size(), like.device.type)
        self.probes, self.edges, self.pairs, self.tile_bytes = held
        self.dtype = like.dtype
        self.kernel = self._kernel(network.config.lmax)
        # No map has a bias: of nothing, all layers and the read-out make zero.
        self.vacuum_density = like.new_zeros(1, 2) if network.config.spin else like.new_zeros(1)

    def _kernel(self, lmax: int) -> ProbeSums | ProbeLoops | None:
        """What sums over neighbours in place of :meth:`_plain_sums`, if there is something."""
        chosen = kernels(self.features.points.positions, lmax)
        given = self.features, self.network.probes, self.cutoff, self.network.promolecule
        if self.features.table is None:
            return None
        if chosen.probe_sums:
            return ProbeSums(*given, self.pairs)
        return None if chosen.probe_loops is None else ProbeLoops(*given, chosen.probe_loops)

    def _zeros(self, rows: int) -> Tensor:
        return self.features.points.positions.new_zeros(rows, self.width)

    def evaluate(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """The rows of those probes that an atom reaches, and their densities."""
        sums = None if self.kernel is None else self.kernel.of(tile)
        if sums is None:
            sums = self._plain_sums(tile)
        density = self.network.density_of(sums.mids, sums.spherical)
        return tile.rows[sums.probes], density[: sums.probes.shape[0]]

    def _plain_sums(self, tile: Tile) -> Sums:
        """What a tile's probes receive by PyTorch's operations."""
        reached = torch.zeros(tile.rows.shape[0], dtype=torch.bool, device=tile.rows.device)
        reached[tile.receivers] = True
        place = (reached.cumsum(0) - 1)[tile.receivers]
        probes = reached.nonzero().squeeze(1)
        # Rounded up: oneDNN compiles a product anew for every number of rows that it meets.
        rows = -(-probes.shape[0] // ROUNDED) * ROUNDED
        summed, spherical = self._zeros(rows), self._zeros(rows)[:, 0].clone()
        for senders, part in self._portions(tile):
            vectors = tile.vectors[part].to(self.dtype)
            edges = Edges(place[part], place[part], vectors)
            summed.index_add_(0, edges.receivers, self._messages(edges, senders))
            self._add_spherical(spherical, edges, senders)
        return Sums(probes, self.network.probes.by_layer(summed), spherical)

    def _portions(self, tile: Tile) -> Iterator[Portion]:
        """A tile's edges, at most ``edges`` at a time."""
        senders: list[tuple[int, int]] = []
        start = held = 0
        for atom, count in zip(tile.atom_index, tile.counts, strict=True):
            while count:
                taken = min(count, self.edges - held)
                senders.append((atom, taken))
                held, count = held + taken, count - taken
                if held == self.edges:
                    yield Portion(senders, slice(start, start + held))
                    start, held, senders = start + held, 0, []
        if held:
            yield Portion(senders, slice(start, start + held))

    def _messages(self, edges: Edges, senders: list[tuple[int, int]]) -> Tensor:
        """(E, columns) R(r) times harmonics . sources, the edges of one atom at a time."""
        harmonics = self.network.harmonics(edges.directions)
        messages = self._radial(edges.lengths)
        scalars = self.features.sources[0]
        coupled = messages.new_empty(messages.shape[0], self.width - scalars.shape[2])
        row = 0
        for atom, count in senders:
            part = slice(row, row + count)
            # Y_0 is one: a product with it is a row, not a matrix.
            messages[part, : scalars.shape[2]].mul_(scalars[atom])
            self._couple(coupled[part], harmonics[part], atom)
            row += count
        messages[:, scalars.shape[2] :].mul_(coupled)
        return messages

    def _couple(self, out: Tensor, harmonics: Tensor, atom: int) -> None:
        """Edges of one atom, l > 0: harmonics (E, (lmax+1)^2) times its sources -> (E, columns)."""
        start = 0
        for degree, source in enumerate(self.features.sources[1:], 1):
            part = harmonics[:, degree**2 : (degree + 1) ** 2]
            stop = start + source.shape[2]
            torch.mm(part, source[atom], out=out[:, start:stop])
            start = stop

    def _radial(self, lengths: Tensor) -> Tensor:
        """(E,) lengths -> (E, columns) R(r)."""
        if self.features.table is None:
            return self.network.probes.radial(lengths, self.network.basis(lengths))
        table = self.features.table.rows
        return TableLookup.of(lengths, table.shape[0] // 2, self.cutoff).read(table)

    def _add_spherical(
        self, spherical: Tensor, edges: Edges, senders: list[tuple[int, int]]
    ) -> None:
        """Adds the spherical atoms, if there are any, onto their probes (P,)."""
        if self.network.promolecule is None:
            return
        device, size = edges.receivers.device, edges.receivers.shape[0]
        columns = (torch.tensor(column) for column in zip(*senders, strict=True))
        atoms, counts = (column.to(device, non_blocking=True) for column in columns)
        types = self.features.types[atoms].repeat_interleave(counts, output_size=size)
        values = self.network.promolecule(edges.squared, types)
        spherical.index_add_(0, edges.receivers, values)
