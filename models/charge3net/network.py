"""ChargE3Net (Koker et al., arXiv 2312.05388): the electron density at any point of a structure.

Atoms exchange equivariant messages; probes receive from the atoms within the cutoff. As coded
by its authors, and computed by the exact reduction that :mod:`probe_stack` explains. The density
has a small jump where an atom crosses a probe's cutoff: the published basis has no envelope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.charge3net.atom_stack import (
    RADIALS,
    AtomStack,
    ChargE3NetConfig,
    Motion,
    check,
)
from neupol_cli.models.charge3net.probe_stack import ProbeStack
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.charge3net.reader import Reader
from neupol_cli.models.charge3net.tensor_product import (
    EVEN_SCALAR,
    ODD_SCALAR,
    BlockLinear,
    Features,
    Multiplicities,
    Neighbourhoods,
    hidden_irreps,
)
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.density.padded_edges import padded_edges
from neupol_cli.models.nn.elements import Elements
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.harmonics import Harmonics
from neupol_cli.models.nn.radial_table import (
    GaussianBasis,
    Spots,
    bins_for,
    checked_table,
    nodes_for,
)

# Angstrom between the nodes of the table that a step of training in float32 makes of R.
TRAINING_STEP = 4.0 / 512
# What a value of a prediction's table may be wrong by, relative to its curve's largest value.
TABLE_ERROR = 1e-7


@dataclass(frozen=True)
class AtomFeatures:
    """All that probes read of some structures.

    Attributes:
        points: the atoms, and behind them their movable points if there are any.
        types: (A,) index of each point's element; movable points count on from the elements.
        layers: every layer's features, {(l, p): (A, 2l + 1, channels)}.
        sources: for every l, (A, 2l + 1, columns): what the harmonics of a probe edge multiply.
        table: R(r) for predictions in float32, (2 bins, columns); in float64 there is none, the
            functions themselves are evaluated at every edge: a check of the rest.
        path: x~_0 .. x~_T of the movable points, each (A, 3), if there are any.
    """

    points: Graph
    types: Tensor
    layers: list[Features]
    sources: list[Tensor]
    table: Tensor | None = None
    path: tuple[Tensor, ...] = ()


class ChargE3Net(DensityModel[AtomFeatures]):
    """The network from a structure to its electron density in e/Angstrom^3.

    With spin the density has two columns, (total, up - down).
    """

    Config = ChargE3NetConfig
    config: ChargE3NetConfig

    def __init__(self, config: ChargE3NetConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        radial = partial(RADIALS[config.encoding], config)
        self.harmonics = Harmonics(config.lmax)
        self.basis = GaussianBasis(config.cutoff, config.basis_size)
        self.atoms = AtomStack(config, radial)
        self.motion = Motion(config, self.atoms.irreps)
        self.probes = ProbeStack(
            self.atoms.irreps,
            hidden_irreps(config.mul, config.lmax),
            config.lmax,
            config.pseudoscalar_spin,
            radial,
            config.num_neighbors,
        )
        if config.pseudoscalar_spin and ODD_SCALAR not in self.probes.scalars:
            raise UsageError(
                f"pseudoscalar_spin needs lmax >= 1 and layers >= 3: with lmax={config.lmax} and "
                f"layers={config.layers} no pseudoscalar reaches a probe; leave it out, and spin "
                "is read from even scalars"
            )
        self.readout = BlockLinear(self.probes.scalars, outputs(config))
        self.promolecule = Promolecule(config) if config.promolecule else None
        self.types = Elements(config.species)

    @staticmethod
    def published(
        tensors: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[ChargE3NetConfig, dict[str, Tensor]]:
        """Config and state of published weights: see :mod:`charge3net_published`."""
        from neupol_cli.models.charge3net.published import published

        return published(tensors, config)

    @staticmethod
    def recognise(checkpoint: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Weights and arguments if a foreign checkpoint is one of ChargE3Net, else None."""
        from neupol_cli.models.charge3net.published import recognise

        return recognise(checkpoint)

    @classmethod
    def from_published(
        cls, tensors: Mapping[str, Any], config: Mapping[str, Any] | None = None
    ) -> ChargE3Net:
        """The network with published weights (a state_dict, or a checkpoint around one).

        Raises:
            KeyError: a weight is missing.
            CheckpointError: a weight has another size than the arguments give it.
        """
        ours, state = cls.published(tensors, config or {})
        network = cls(ours).to(state["readout.weight"].dtype)
        network.load_state_dict(state)
        return network.eval()

    def encode(self, graph: Graph) -> AtomFeatures:
        """The atom stack on a batch of structures."""
        types = self.types(graph.numbers)
        batch, moving = graph.batch, graph.positions
        if self.motion.doubled:
            types = torch.cat((types, types + len(self.config.species)))
            batch = torch.cat((batch, batch))
        kinds = self.config.kinds * len(self.config.species)
        one_hot = nn.functional.one_hot(types, kinds).to(graph.positions.dtype)
        features: Features = {EVEN_SCALAR: one_hot[:, None]}
        layers: list[Features] = []
        path = [moving]
        hoods = self._neighbourhoods(graph, moving)
        for n, layer in enumerate(self.atoms.layers):
            features = layer(features, hoods)
            layers.append(features)
            moving = self.motion.step(n, features, moving)
            path.append(moving)
            if self.motion.moves and n + 1 < len(self.atoms.layers):
                hoods = self._neighbourhoods(graph, moving)
        positions = torch.cat((graph.positions, moving)) if self.motion.doubled else moving
        points = replace(graph, positions=positions, batch=batch)
        seen = tuple(path) if self.motion.doubled else ()
        return AtomFeatures(points, types, layers, self.probes.senders(layers), path=seen)

    @property
    def polarization_mode(self) -> str:
        """``off``, ``frozen`` or ``movable``."""
        return self.config.polarization

    def movable_points(self, graph: Graph) -> list[Tensor]:
        """x~_0 .. x~_T, each (A, 3) Angstrom: the probes read the last one."""
        return list(self.encode(graph).path)

    def _neighbourhoods(self, graph: Graph, moving: Tensor) -> Neighbourhoods:
        edges = self.motion.edges(graph, moving, self.config.cutoff)
        points = (1 + self.motion.doubled) * graph.numbers.shape[0]
        harmonics = self.harmonics(-edges.directions)  # receiver - sender
        return Neighbourhoods.of(edges, points, harmonics, self.basis(edges.lengths))

    def forward(self, graph: Graph, probes: Tensor) -> Tensor:
        """Densities at the same number of probes of each structure, for training.

        Args:
            graph: B structures.
            probes: (B, P, 3) Angstrom.

        Returns:
            (B P,), or (B P, 2) with spin: e/Angstrom^3.
        """
        return self.at(self.encode(graph), probes)

    def at(self, features: AtomFeatures, probes: Tensor) -> Tensor:
        """The same of atoms that are encoded already, differentiable by the probes."""
        points = features.points
        cutoff = self.config.cutoff
        images = periodic_images(points, cutoff, *fractional_bounds(points, probes))
        found = padded_edges(points, images, points.positions, probes, cutoff)
        geometry = Edges(found.receivers, found.receivers, found.vectors)
        coupled = self._coupled(self.harmonics(geometry.directions), features.sources, found.width)
        count = probes.shape[0] * probes.shape[1]
        weights = self._radial(geometry.lengths, found.is_edge)
        summed = segment_sum(coupled * weights, found.receivers, count)
        spherical = summed.new_zeros(count)
        if self.promolecule is not None:
            types = features.types.repeat_interleave(found.width)
            atoms = self.promolecule(geometry.squared, types) * found.is_edge
            spherical = segment_sum(atoms, found.receivers, count)
        return self.finish(summed, spherical)

    @torch.no_grad()
    def prepared(self, graph: Graph) -> AtomFeatures:
        """The atom stack, and in float32 a table of R."""
        features = self.encode(graph)
        if graph.positions.dtype == torch.float64:
            return features
        table = checked_table(self.probes, self.basis, TABLE_ERROR)
        return replace(features, table=table.to(graph.positions.dtype))

    def tile_evaluator(self, features: AtomFeatures, memory: int) -> Reader:
        """Reads the probes from tables, or on a GPU with a kernel."""
        return Reader(self, features, memory)

    def _radial(self, lengths: Tensor, filled: Tensor) -> Tensor:
        """R at (E,) distances, zero where a slot is empty -> (E, columns).

        In float64 from the functions themselves; in float32, where its rounding is no smaller,
        through a table that is made anew at each step, which is cheaper than E networks.
        """
        if lengths.dtype == torch.float64:
            return self.probes.radial(lengths, self.basis(lengths)) * filled[:, None]
        nodes = nodes_for(bins_for(TRAINING_STEP, self.config.cutoff), self.basis)
        table = self.probes.table(nodes, self.basis)
        spots = Spots.of(lengths, table.shape[0] // 2, self.config.cutoff)
        return spots.masked(filled).read(table)

    def _coupled(self, harmonics: Tensor, sources: list[Tensor], width: int) -> Tensor:
        """(A K, (lmax+1)^2) harmonics of K slots an atom times its sources -> (A K, columns)."""
        rows = harmonics.view(-1, width, harmonics.shape[1])
        parts = rows.split([2 * n + 1 for n in range(len(sources))], 2)
        products = [torch.bmm(y, source) for y, source in zip(parts, sources, strict=True)]
        return torch.cat(products, 2).flatten(0, 1)

    def finish(self, summed: Tensor, spherical: Tensor) -> Tensor:
        """Densities from what was summed over neighbours.

        Args:
            summed: (P, columns) of the probe stack.
            spherical: (P,) the sum of spherical atoms, zero without a promolecule.

        Returns:
            (P,) or (P, 2) e/Angstrom^3. The spherical atoms join the total, not the spin.
        """
        density = self._read(summed)
        if density.dim() == 1:
            return density + spherical
        return torch.cat((density[:, :1] + spherical[:, None], density[:, 1:]), 1)

    def _read(self, summed: Tensor) -> Tensor:
        """(P, columns) summed over neighbours -> (P,) or (P, 2) densities of the network."""
        found = self.readout(self.probes(summed))
        even = found[EVEN_SCALAR]
        if self.config.pseudoscalar_spin:
            # As coded: the first column is overwritten with a + b before a - b would read it.
            return torch.cat((even + found[ODD_SCALAR], even), 1)
        return even if self.config.spin else even.squeeze(1)


def outputs(config: ChargE3NetConfig) -> Multiplicities:
    """The readout's irreps: total; with spin 2x0e, or the published 1x0e + 1x0o."""
    if config.pseudoscalar_spin:
        return {ODD_SCALAR: 1, EVEN_SCALAR: 1}
    return {EVEN_SCALAR: 2 if config.spin else 1}
