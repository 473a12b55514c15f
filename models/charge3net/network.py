"""ChargE3Net (Koker et al., arXiv 2312.05388): the electron density at any point of a structure.

Atoms exchange equivariant messages, probes receive from the atoms within the cutoff: probe layer k
reads the atoms after atom layer k. Edges r < cutoff, d = receiver - sender, all periodic images.

    irreps    round(mul / (lmax + 1) / (2l + 1)) copies of l = 0 .. lmax, p = o, e        irreps.py
    basis     e_k(r) = (exp(-((r - c_k) / D)^2) / 1.12 - mean_k) / std_k     charge3net/radial.py
    radial    R(r) = silu(e W_0 / sqrt K) W_1 / sqrt(hidden)                 charge3net/radial.py
    harmonics Y_l(d), |Y_l|^2 = 2l + 1                                       nn/harmonics.py
    linear    F: out_k = in_k W_k / sqrt(fan in), no bias                    linear.py
    path      sqrt(2 l3 + 1) sum C_m1m2m3 x_m1 Y_m2 R                        tensor_product.py
    layer     mid_i = sum_j path(F_lin1(A)_j, Y(d_ij); R(r_ij)) / sqrt(num_neighbors)     layers.py
              t = 0.1 F_lin3(mid),   A_i' = gate(cos(t) F_sc(A)_i + sin(t) F_lin2(mid)_i)
    atoms     A = one-hot(Z);   A after each layer                           ChargE3Net.encode
    probes    q = 0;   the same layer with q for the receiver, its senders the atoms: reduced to
              the scalars that the density reads                             probe_stack.py
    density   rho = F_readout(q_0e);   as coded with spin: (a + b, a), b from q_0o
                                                                             ChargE3Net.density_of

silu, tanh and sigmoid are scaled to second moment 1. As coded by its authors: the basis has no
envelope, so that the density has a small jump where an atom crosses a probe's cutoff.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.base import Arguments
from neupol_cli.models.charge3net.config import ChargE3NetConfig, check
from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.irreps import EVEN_SCALAR, ODD_SCALAR, atom_layers, read_out
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.radial_tables import PredictionTable, step_radial
from neupol_cli.models.charge3net.layers import AtomLayer, MakeRadial
from neupol_cli.models.charge3net.linear import BlockLinear, Features
from neupol_cli.models.charge3net.motion import Motion
from neupol_cli.models.charge3net.neighbourhoods import Neighbourhoods
from neupol_cli.models.charge3net.probe_stack import Mid, ProbeStack
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.charge3net.published import published_charge3net, recognised
from neupol_cli.models.charge3net.radial import GaussianBasis, LearnedRadial, Radial, RadialNetwork
from neupol_cli.models.charge3net.tile_evaluator import TileEvaluator
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.density.padded_edges import padded_edges
from neupol_cli.models.nn.elements import Elements
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.harmonics import Harmonics


class AtomStack(nn.Module):
    """The layers among atoms; the last keeps only what probes read."""

    def __init__(self, config: ChargE3NetConfig, radial: MakeRadial) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AtomLayer(irreps, radial, config.num_neighbors) for irreps in atom_layers(config)
        )


class ChargE3Net(DensityModel[AtomFeatures]):
    """The network from a structure to its electron density in e/Angstrom^3.

    With spin the density has two columns, (total, up - down).
    """

    Config = ChargE3NetConfig
    config: ChargE3NetConfig
    promolecule: Promolecule | None
    by_column = ("readout.weight",)

    def __init__(self, config: ChargE3NetConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        self.harmonics = Harmonics(config.lmax)
        self.basis = GaussianBasis(config.cutoff, config.basis_size)
        self.atoms = AtomStack(config, self.new_radial)
        self.motion = Motion(config)
        self.probes = ProbeStack(config, self.new_radial)
        if config.pseudoscalar_spin and ODD_SCALAR not in self.probes.scalars:
            raise UsageError(
                f"pseudoscalar_spin needs lmax >= 1 and layers >= 3: with lmax={config.lmax} and "
                f"layers={config.layers} no pseudoscalar reaches a probe; leave it out, and spin "
                "is read from even scalars"
            )
        self.readout = BlockLinear(self.probes.scalars, read_out(config))
        self.promolecule = Promolecule(config) if config.promolecule else None
        self.types = Elements(config.species)
        self.table = PredictionTable()

    def new_radial(self, channels: int) -> Radial:
        """R(r) of so many channels."""
        if self.config.encoding == "learned":
            return LearnedRadial(self.config.cutoff, self.config.bins, channels)
        return RadialNetwork(self.config.basis_size, self.config.hidden, channels)

    def encode(self, graph: Graph) -> AtomFeatures:
        """The layers among the atoms of a batch of structures."""
        elements, config = self.types(graph.numbers), self.config
        types = self.kinds(elements, config.points_per_atom)
        one_hot = functional.one_hot(types, config.point_types).to(graph.positions.dtype)
        features: Features = {EVEN_SCALAR: one_hot[:, None]}  # (A, 1, types)
        layers, path = [], [graph.positions]
        neighbourhoods = self.neighbourhoods(graph, graph.positions)
        for n, layer in enumerate(self.atoms.layers):
            if n and self.motion.restless:
                neighbourhoods = self.neighbourhoods(graph, path[-1])
            features = layer(features, neighbourhoods)
            layers.append(features)
            path.append(self.motion.step(n, features, path[-1]))
        points, sources = self.motion.points(graph, path[-1]), self.probes.senders(layers)
        senders = self.kinds(elements, config.mode.senders_per_atom)
        return AtomFeatures(
            points, senders, layers, sources, path=tuple(path) if self.motion.extra else ()
        )

    def kinds(self, elements: Tensor, points: int) -> Tensor:
        """(A,) elements -> (points A,) what each point is: atoms, then their second points."""
        return torch.cat([elements + n * len(self.config.species) for n in range(points)])

    def neighbourhoods(self, graph: Graph, moving: Tensor) -> Neighbourhoods:
        """Who sends to whom, with movable points, if there are any, at ``moving`` (A, 3)."""
        edges, atoms = self.motion.edges(graph, moving, self.config.cutoff), graph.numbers.shape[0]
        if edges.coinciding is None:
            points = self.config.points_per_atom * atoms
            return Neighbourhoods.of(edges, points, self._harmonics(edges), self.basis)
        among, own = edges.coinciding, edges.of_no_length()
        neighbourhoods = Neighbourhoods.of(among, atoms, self._harmonics(among), self.basis)
        return neighbourhoods.with_own(own, self._harmonics(own), self.basis(own.lengths))

    def _harmonics(self, edges: Edges) -> Tensor:
        """(E, (lmax + 1)^2) Y of receiver - sender."""
        return self.harmonics(-edges.directions)

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
        points, cutoff = features.points, self.config.cutoff
        images = periodic_images(points, cutoff, *fractional_bounds(points, probes))
        edges = padded_edges(points, images, points.positions, probes, cutoff)
        geometry = Edges(edges.receivers, edges.receivers, edges.vectors)
        count = probes.shape[0] * probes.shape[1]
        coupled = _coupled(self.harmonics(geometry.directions), features.sources, edges.width)
        weights = self.radial(geometry.lengths, edges.is_edge)
        summed = segment_sum(coupled * weights, edges.receivers, count)
        spherical = summed.new_zeros(count)
        if self.promolecule is not None:
            types = features.types.repeat_interleave(edges.width)
            atoms = self.promolecule(geometry.squared, types) * edges.is_edge
            spherical = segment_sum(atoms, edges.receivers, count)
        return self.density_of(self.probes.by_layer(summed), spherical)

    def radial(self, lengths: Tensor, is_edge: Tensor) -> Tensor:
        """R(r) of all probe layers at (E,) lengths -> (E, columns), zero where there is no edge."""
        if kernels(lengths, self.config.lmax).tables:
            return step_radial(self.probes, self.basis, lengths, is_edge)
        return self.probes.radial(lengths, self.basis(lengths)) * is_edge[:, None]

    def density_of(self, mids: list[Mid], spherical: Tensor) -> Tensor:
        """Densities from what was summed over neighbours.

        Args:
            mids: what each probe layer receives, P rows.
            spherical: (P,) the sum of spherical atoms, zero without a promolecule.

        Returns:
            (P,) or (P, 2) e/Angstrom^3. The spherical atoms join the total, not the spin.
        """
        density = self._read_out(self.probes(mids))
        if density.dim() == 1:
            return density + spherical
        return torch.cat((density[:, :1] + spherical[:, None], density[:, 1:]), 1)

    def _read_out(self, scalars: Features) -> Tensor:
        """The probe's last scalars {0e, 0o: (P, n)} -> (P,) or (P, 2) densities of the network."""
        out = self.readout(scalars)
        even: Tensor = out[EVEN_SCALAR]
        if self.config.pseudoscalar_spin:
            # As coded: the first column is overwritten with a + b before a - b would read it.
            return torch.cat((even + out[ODD_SCALAR], even), 1)
        return even if self.config.spin else even.squeeze(1)

    @property
    def invariants(self) -> int:
        """Channels of the last layer's scalars."""
        return atom_layers(self.config)[-1].outs[EVEN_SCALAR]

    @property
    def layer_invariants(self) -> int:
        """The same of all layers."""
        return sum(layer.outs[EVEN_SCALAR] for layer in atom_layers(self.config))

    @torch.no_grad()
    def prepared(self, graph: Graph) -> AtomFeatures:
        """The atoms' layers, and a table of R(r) where one serves."""
        features = self.encode(graph)
        if not kernels(graph.positions, self.config.lmax).tables:
            return features
        return replace(features, table=self.table.of(self.probes, self.basis))

    def tile_evaluator(self, features: AtomFeatures, memory: int) -> TileEvaluator:
        """One structure's density tile by tile, within so many bytes."""
        return TileEvaluator(self, features, memory)

    @property
    def polarization_mode(self) -> str:
        """``off``, ``frozen``, ``movable`` or ``late``."""
        return self.config.polarization

    def movable_points(self, graph: Graph) -> list[Tensor]:
        """x~_0 .. x~_T, each (A, 3) Angstrom: the probes read the last one."""
        return list(self.encode(graph).path)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[ChargE3NetConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return published_charge3net(weights, config)

    @classmethod
    def recognise(cls, content: object) -> tuple[Mapping[str, Tensor], Arguments] | None:
        """Weights and arguments if a foreign checkpoint is one of ChargE3Net, else None."""
        return recognised(content)

    @classmethod
    def from_published(
        cls, weights: Mapping[str, Tensor], config: Arguments | None = None
    ) -> ChargE3Net:
        """The network with published weights (a state_dict, or a checkpoint around one).

        Raises:
            KeyError: a weight is missing.
            CheckpointError: a weight has another size than the arguments give it.
        """
        ours, state = cls.published(weights, config or {})
        network = cls(ours).to(state["readout.weight"].dtype)
        network.load_state_dict(state)
        return network.eval()


def _coupled(harmonics: Tensor, sources: list[Tensor], width: int) -> Tensor:
    """A . Y_l of padded edges, K for each atom.

    Args:
        harmonics: (A K, (lmax + 1)^2).
        sources: for every l, (A, 2l + 1, columns of l).
        width: K.

    Returns:
        (A K, columns).
    """
    rows = harmonics.view(-1, width, harmonics.shape[1])  # (A, K, (lmax + 1)^2)
    degrees = rows.split([2 * n + 1 for n in range(len(sources))], 2)
    products = [torch.bmm(y, source) for y, source in zip(degrees, sources, strict=True)]
    return torch.cat(products, 2).flatten(0, 1)
