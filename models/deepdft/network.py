"""DeepDFT (Jorgensen and Bhowmik 2020, 2022): the electron density at any point, the baseline.

Atoms exchange messages, probes only receive: probe layer k reads the atoms after atom layer k, and
no probe sees another one. Here is what the invariant network (schnet.py) and the equivariant one
(painn.py) share: batches, edges to probes, which kernels evaluate them (positions in Angstrom,
densities in e/Angstrom^3).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.base import Arguments
from neupol_cli.models.deepdft.config import DeepDFTConfig
from neupol_cli.models.deepdft.kernels.choice import kernels
from neupol_cli.models.deepdft.kernels.filter_table import filter_table
from neupol_cli.models.deepdft.kernels.probe_edges import ProbeEdges, ProbeEvaluator
from neupol_cli.models.deepdft.published import recognised
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.density.padded_edges import probe_edges
from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.kernels.made_of_weights import MadeOfWeights
from neupol_cli.models.nn.elements import Elements
from neupol_cli.models.nn.graph import Edges, Graph, counted
from neupol_cli.models.nn.linear import Linear
from neupol_cli.models.nn.neighbours import neighbours

# Tiles: on a CPU as large as still suits its caches, on a GPU enough to fill it.
PROBES = {"cpu": 2048, "cuda": 16384}
PAIRS = 1 << 18  # probes and images compared at a time, on a CPU
PAIR = 192  # bytes
FEWEST_PROBES = 32


class Senders(NamedTuple):
    """What atoms offer to their receivers: scalars (A, H), and vectors (A, 3, H) or None."""

    scalars: Tensor
    vectors: Tensor | None = None


@dataclass(frozen=True)
class AtomFeatures:
    """All that probes read of some structures.

    Attributes:
        points: the structures.
        layers: the atoms' state after each layer.
        most_neighbours: () of an atom, for the size of tiles.
        evaluator: of probes, by tables of the filters; None where the formulas serve.
    """

    points: Graph
    layers: list[Senders]
    most_neighbours: Tensor
    evaluator: ProbeEvaluator | None = None

    @property
    def invariants(self) -> Tensor:
        """(A, hidden) scalars of the last layer."""
        return self.layers[-1].scalars

    @property
    def layer_invariants(self) -> Tensor:
        """(A, layers x hidden) scalars of all layers."""
        return torch.cat([layer.scalars for layer in self.layers], 1)


class DeepDFT(DensityModel[AtomFeatures]):
    """From a structure to its electron density in e/Angstrom^3.

    A subclass implements :meth:`atoms`, :meth:`received`, :meth:`filters` and :meth:`evaluator`,
    and has ``probe_layers``.
    """

    Config: ClassVar[type[DeepDFTConfig]] = DeepDFTConfig
    MARK: ClassVar[str]  # a published weight that the other network does not have
    by_element: ClassVar[Mapping[str, int]] = {"embedding.weight": 0}
    FILTER: ClassVar[str]  # part of the names of the filters' weights
    config: DeepDFTConfig
    probe_layers: nn.ModuleList
    promolecule = None

    def __init__(self, config: DeepDFTConfig) -> None:
        super().__init__()
        if config.spin:
            raise UsageError("DeepDFT has no spin; learn the total density with --set spin=false")
        self.config = config
        self.embedding = nn.Embedding(len(config.species), config.hidden)
        self.before_readout = Linear(config.hidden, config.hidden)
        self.readout = Linear(config.hidden, 1)
        self.types = Elements(config.species)
        self.filter_tables = MadeOfWeights[list[Tensor]]()

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        """(A,) indices of elements -> the atoms' state after each layer."""
        raise NotImplementedError

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        """Edges from atoms (senders) to probes (receivers) -> (probes,) e/Angstrom^3."""
        raise NotImplementedError

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> the filters of all probe layers side by side, with their envelope."""
        raise NotImplementedError

    def evaluator(self, layers: list[Senders], tables: list[Tensor]) -> ProbeEvaluator:
        """A faster :meth:`received`, given the atoms' layers and a table of filters a layer."""
        raise NotImplementedError

    @classmethod
    def recognise(cls, checkpoint: object) -> tuple[Mapping[str, Tensor], Arguments] | None:
        """Weights and arguments if a foreign checkpoint is one of this network, else None."""
        return recognised(checkpoint, cls.MARK)

    def encode(self, graph: Graph) -> AtomFeatures:
        """The atoms' layers on a batch of structures."""
        listed = neighbours(graph, graph.positions, self.config.cutoff)
        edges = Edges.of(listed, graph.positions, graph.batch, graph.cell)
        most = counted(edges.receivers, graph.numbers.shape[0]).max()
        return AtomFeatures(graph, self.atoms(self.types(graph.numbers), edges), most)

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
        cutoff = self.config.cutoff
        images = periodic_images(graph, cutoff, *fractional_bounds(graph, probes))
        found = probe_edges(graph, images, graph.positions, probes, cutoff)
        edges = Edges(found.receivers, found.senders, -found.vectors)
        return self.received(features.layers, edges, probes.shape[0] * probes.shape[1])

    @property
    def invariants(self) -> int:
        """``hidden``."""
        return self.config.hidden

    @property
    def layer_invariants(self) -> int:
        """``hidden`` of each layer."""
        return self.config.layers * self.config.hidden

    @torch.no_grad()
    def prepared(self, graph: Graph) -> AtomFeatures:
        """The atoms' layers, and what evaluates probes by tables where kernels serve."""
        features = self.encode(graph)
        if not kernels(self.readout.weight, self.config.hidden).tables:
            return features
        return replace(features, evaluator=self.evaluator(features.layers, self.tables()))

    def tables(self) -> list[Tensor]:
        """A table of filters a probe layer, (2 bins, C) float32."""
        parameters = self.probe_layers.named_parameters()
        weights = torch.cat([p.detach().flatten() for name, p in parameters if self.FILTER in name])

        def make() -> list[Tensor]:
            exact = copy.deepcopy(self).double().cpu()
            table = filter_table(exact.filters, self.config.cutoff).to(weights)
            return [part.contiguous() for part in table.chunk(self.config.layers, 1)]

        return self.filter_tables.get(weights, make)

    def tile_evaluator(self, features: AtomFeatures, memory: int) -> TileEvaluator:
        """One structure's densities tile by tile, within so many bytes."""
        return TileEvaluator(self, features, memory)


class TileEvaluator:
    """One structure's density at tiles of probes."""

    def __init__(self, network: DeepDFT, features: AtomFeatures, memory: int) -> None:
        self.network, self.features = network, features
        self.cutoff, like = network.config.cutoff, network.readout.weight
        limit, probe = PROBES.get(like.device.type, PROBES["cpu"]), self._probe_bytes(like)
        self.probes = max(FEWEST_PROBES, min(memory // probe, limit))
        most = PAIRS if like.device.type == "cpu" else memory
        self.pairs = max(FEWEST_PROBES, min(memory // PAIR, most))
        self.tile_bytes = self.probes * probe + self.pairs * PAIR
        none, nothing = features.points.batch[:0], features.points.positions[:0]
        self.vacuum_density = network.received(features.layers, Edges(none, none, nothing), 1)

    def _probe_bytes(self, like: Tensor) -> int:
        """What a probe takes: with PyTorch's operations an edge holds about a dozen rows."""
        hidden, item = self.network.config.hidden, like.element_size()
        edges, evaluator = 2 * (int(self.features.most_neighbours) + 1), self.features.evaluator
        if evaluator is None or kernels(like, hidden).library is None:
            return edges * 16 * hidden * item
        return (32 * hidden + edges * evaluator.numbers_an_edge) * item

    def evaluate(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """The rows of those probes that an atom reaches, and their densities."""
        evaluator = self.features.evaluator
        if evaluator is None:
            return tile.rows, self._formulas(tile)
        edges = ProbeEdges.of(tile, self.vacuum_density.dtype)
        if not edges.size:
            return tile.rows[:0], self.vacuum_density[:0]
        density = evaluator.density(edges)
        return tile.rows[edges.probes], density[: edges.probes.shape[0]]

    def _formulas(self, tile: Tile) -> Tensor:
        """(P,) densities of a tile with every function evaluated at every edge."""
        vectors = -tile.vectors.to(self.vacuum_density.dtype)
        edges = Edges(tile.receivers, tile.senders, vectors)
        return self.network.received(self.features.layers, edges, tile.rows.shape[0])
