"""DeepDFT (Jorgensen and Bhowmik 2020, 2022): the electron density at any point, the baseline.

Atoms exchange messages, probes only receive: probe layer k reads the atoms after atom layer k, and
no probe sees another one. Here is what the invariant network (schnet.py) and the
equivariant one (painn.py) share: batches, tiles of probes, units (positions in Angstrom,
densities in e/Angstrom^3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neupol_cli.errors import Usage
from neupol_cli.models.deepdft.edges import Reached
from neupol_cli.models.deepdft.tables import filter_table
from neupol_cli.models.density import DensityModel
from neupol_cli.models.elements import Elements
from neupol_cli.models.graph import Edges, Graph, neighbours
from neupol_cli.models.linear import Linear
from neupol_cli.models.probes import Tile, images, inside, slots

# Tiles: on a CPU as large as still suits its caches, on a GPU enough to fill it.
PROBES = {"cpu": 2048, "cuda": 16384}
LEAST = 32


@dataclass(frozen=True)
class DeepDFTConfig:
    """What both networks' settings have.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        hidden: width H of every feature.
        layers: of atoms and of probes.
        cutoff: Angstrom.
        probes: drawn from each structure in a step of training.
        focus: they are drawn in proportion to density^focus; 0, as published: all alike.
        spin: there is none; a data set's spin density is left alone.
    """

    species: tuple[int, ...] = (1, 6, 7, 8, 9)
    hidden: int = 128
    layers: int = 3
    cutoff: float = 4.0
    probes: int = 1000
    focus: float = 0.0
    spin: bool = False


class Senders(NamedTuple):
    """What atoms offer to their receivers: one tensor or several, each (A, ...)."""

    scalars: Tensor
    vectors: Tensor | None = None


@dataclass(frozen=True)
class AtomFeatures:
    """All that probes read of some structures: the atoms, and their state after each layer.

    Attributes:
        points: the structures. layers: the atoms' state after each layer.
        most: neighbours of an atom, for the size of tiles.
        reader: reads probes from tables of the filters, in float32; in float64 there is none, the
            functions themselves are evaluated at every edge: a check of the rest.
    """

    points: Graph
    layers: list[Senders]
    most: int
    reader: Reader | None = None


class Reader(Protocol):
    """The probes of one structure."""

    def read(self, edges: Reached) -> Tensor:
        """(R,) e/Angstrom^3 at R points."""


class DeepDFT(DensityModel):
    """From a structure to its electron density in e/Angstrom^3.

    A subclass implements :meth:`atoms` and :meth:`received`, and has ``probe_layers``.
    """

    Config: ClassVar[type[DeepDFTConfig]] = DeepDFTConfig
    MARK: ClassVar[str]  # a published weight that the other network does not have
    FILTER: ClassVar[str]  # part of the names of the filters' weights
    probe_layers: nn.ModuleList
    promolecule = None

    def __init__(self, config: DeepDFTConfig) -> None:
        super().__init__()
        if config.spin:
            raise Usage("DeepDFT has no spin; learn the total density with --set spin=false")
        self.config = config
        self.embedding = nn.Embedding(len(config.species), config.hidden)
        self.before_readout = Linear(config.hidden, config.hidden)
        self.readout = Linear(config.hidden, 1)
        self.types = Elements(config.species)
        self._tables: tuple[Tensor, list[Tensor]] | None = None

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        """(A,) indices of elements -> the atoms' state after each layer."""
        raise NotImplementedError

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        """Edges from atoms (senders) to probes (receivers) -> (probes,) e/Angstrom^3."""
        raise NotImplementedError

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> the filters of all probe layers side by side, with their envelope."""
        raise NotImplementedError

    def reader(self, layers: list[Senders], tables: list[Tensor]) -> Reader:
        """What reads probes, given the atoms' layers and a table of filters a probe layer."""
        raise NotImplementedError

    def tables(self) -> list[Tensor]:
        """A table of filters a probe layer, (2 bins, C) float32; made anew when weights change."""
        named = self.probe_layers.named_parameters()
        # By value: optimisers and averages change weights without a trace.
        now = torch.cat([p.detach().flatten() for name, p in named if self.FILTER in name])
        if self._tables is None or not _same(self._tables[0], now):
            exact = copy.deepcopy(self).double().cpu()
            table = filter_table(exact.filters, self.config.cutoff).to(now)
            parts = table.chunk(self.config.layers, 1)
            self._tables = now, [each.contiguous() for each in parts]
        return self._tables[1]

    @classmethod
    def recognise(cls, checkpoint: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Weights and arguments if a foreign checkpoint is one of this network, else None."""
        from neupol_cli.models.deepdft.published import recognised

        return recognised(checkpoint, cls.MARK)

    def encode(self, graph: Graph) -> AtomFeatures:
        """The atoms' layers on a batch of structures."""
        topology = neighbours(graph, graph.positions, self.config.cutoff)
        edges = Edges.of(topology, graph.positions, graph.batch, graph.cell)
        counts = torch.bincount(edges.receivers, minlength=1)
        return AtomFeatures(graph, self.atoms(self.types(graph.numbers), edges), int(counts.max()))

    def forward(self, graph: Graph, probes: Tensor) -> Tensor:
        """Densities at the same number of probes of each structure, for training.

        Args:
            graph: B structures.
            probes: (B, P, 3) Angstrom.

        Returns:
            (B P,) e/Angstrom^3.
        """
        return self.at(self.encode(graph), probes)

    def at(self, features: AtomFeatures, probes: Tensor) -> Tensor:
        """The same of atoms that are encoded already, differentiable by the probes."""
        graph = features.points
        seen = images(graph, self.config.cutoff, *inside(graph, probes))
        found = slots(graph, seen, graph.positions, probes, self.config.cutoff)
        every = torch.arange(graph.numbers.shape[0], device=probes.device)
        senders = every.repeat_interleave(found.width)[found.filled]
        edges = Edges(found.receivers[found.filled], senders, -found.vectors[found.filled])
        return self.received(features.layers, edges, probes.shape[0] * probes.shape[1])

    @torch.no_grad()
    def prepared(self, graph: Graph) -> AtomFeatures:
        """The atoms' layers, and in float32 what reads probes from tables."""
        found = self.encode(graph)
        if self.readout.weight.dtype == torch.float64:
            return found
        return replace(found, reader=self.reader(found.layers, self.tables()))

    def tile_reader(self, features: AtomFeatures, memory: int) -> Tiles:
        """Reads the probes from tables in float32, and evaluates the filters in float64."""
        return Tiles(self, features, memory)


class Tiles:
    """One structure's density at tiles of probes."""

    def __init__(self, network: DeepDFT, features: AtomFeatures, memory: int) -> None:
        self.network, self.features = network, features
        self.cutoff, like = network.config.cutoff, network.readout.weight
        # Probes at a time: an edge holds about a dozen rows of features at once.
        edge = 16 * network.config.hidden * like.element_size()
        most = PROBES.get(like.device.type, PROBES["cpu"])
        self.probes = max(LEAST, min(memory // (edge * 2 * (features.most + 1)), most))
        self.pairs = max(LEAST, memory // 192)
        none, nothing = features.points.batch[:0], features.points.positions[:0]
        self.empty = network.received(features.layers, Edges(none, none, nothing), 1)

    def read(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """The rows of those probes that an atom reaches, and their densities."""
        if self.features.reader is None:
            return tile.rows, self._exact(tile)
        edges = Reached.of(tile, self.empty.dtype)
        if not edges.size:
            return tile.rows[:0], self.empty[:0]
        density = self.features.reader.read(edges)
        return tile.rows[edges.probes], density[: edges.probes.shape[0]]

    def _exact(self, tile: Tile) -> Tensor:
        """(P,) densities of a tile with every function evaluated at every edge."""
        device = tile.rows.device
        counts, owners = (
            torch.tensor(each, dtype=torch.long, device=device)
            for each in (tile.counts, tile.owners)
        )
        senders = owners.repeat_interleave(counts)
        edges = Edges(tile.receivers, senders, -tile.vectors.to(self.empty.dtype))
        return self.network.received(self.features.layers, edges, tile.rows.shape[0])


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in place, type and every number."""
    alike = (one.device, one.dtype, one.shape) == (other.device, other.dtype, other.shape)
    return alike and torch.equal(one, other)
