"""The invariant DeepDFT, SchNet's messages with gates on the probes (Jorgensen, Bhowmik 2020).

    ssp(x) = softplus(x) - ln 2,   e_k(r) = exp(-(r - 0.1 k)^2 / (2 0.1^2)),  k dr < r_c
    c(r)   = 1 - sigmoid(5 (r - r_c + 1.5))            5.5e-4 at the cutoff, where the density jumps
    M_i    = sum_j L(ssp(L[s_j, s_i])) * L(ssp(L(e(r_ij)))) c(r_ij)
    atoms:   s += L(ssp(L(M)))
    probes:  g = sigmoid(L(ssp(L(s))));   s = g s + (1 - g) L(ssp(L(M)));   rho = L(ssp(L(s)))

L[s_j, s_i] is split into a product an atom and one a receiver. Probes begin with s = 0, so that
their first messages are functions of the atoms alone, computed an atom and not an edge; their
first gate has nothing but its biases to say, as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.deepdft.common import DeepDFT, DeepDFTConfig, Senders
from neupol_cli.models.deepdft.edges import Plain, Reached, sums
from neupol_cli.models.deepdft.published import published_common
from neupol_cli.models.graph import Edges, segment_sum
from neupol_cli.models.linear import Perceptron, product
from neupol_cli.models.radial_table import Spots

SOFT = 1.5  # Angstrom before the cutoff, where the envelope is one half
STEEP = 5.0  # 1/Angstrom
BINS = 513  # nodes of the tables of a step of training


@dataclass(frozen=True)
class SchNetDensityConfig(DeepDFTConfig):
    """Settings of the invariant network; the defaults are the published ones.

    Attributes:
        step: Angstrom between the Gaussians, and their width.
    """

    layers: int = 6
    step: float = 0.1


def ssp(x: Tensor) -> Tensor:
    """softplus(x) - ln 2."""
    return functional.softplus(x) - math.log(2)


# L(ssp(L(.)))
Softened = partial(Perceptron, activation=ssp)


class Messages(nn.Module):
    """M of the formula above."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.node = Softened(2 * hidden, 2 * hidden, hidden)
        self.edge = Softened(basis, hidden, hidden)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The parts (2H, H) of L[s_j, s_i] that act on the sender, and on the receiver."""
        to_sender, to_receiver = self.node.first.weight.split(self.hidden, 1)
        return to_sender, to_receiver

    def own(self, sent: Tensor) -> Tensor:
        """(A, H) senders -> (A, 2H) their part of L[s_j, s_i], with the bias."""
        return product(sent, self.sides()[0], self.node.first.bias)

    def forward(self, sent: Tensor, received: Tensor | None, edges: View, count: int) -> Tensor:
        """(A, H) senders and (count, H) receivers, None for zeros -> (count, H)."""
        own = self.own(sent)  # (A, 2H)
        if received is None:
            nodes = self.node.second(ssp(own)).index_select(0, edges.senders)
        else:
            other = product(received, self.sides()[1]).index_select(0, edges.receivers)
            nodes = self.node.second(ssp(own.index_select(0, edges.senders) + other))
        return segment_sum(nodes * edges.filters(self), edges.receivers, count)

    def table(self, at: Nodes) -> Tensor:
        """(2 N, H) the filter L(ssp(L(e))) c at N nodes: heights and slopes (per bin)."""
        within = self.edge.first(at.basis)
        values = self.edge.second(ssp(within))
        rising = product(at.basis_slope, self.edge.first.weight) * within.sigmoid()
        slopes = product(rising, self.edge.second.weight) * at.envelope + values * at.envelope_slope
        return torch.stack((values * at.envelope, slopes), 1).flatten(0, 1)


@dataclass(frozen=True)
class Radial:
    """Edges and the functions of their lengths: basis (E, K), envelope (E, 1)."""

    receivers: Tensor
    senders: Tensor
    basis: Tensor
    envelope: Tensor

    def filters(self, messages: Messages) -> Tensor:
        """(E, H)."""
        return messages.edge(self.basis) * self.envelope


@dataclass(frozen=True)
class Nodes:
    """The functions of a length at the N nodes of a table, with slopes a bin: (N, K) and (N, 1)."""

    basis: Tensor
    basis_slope: Tensor
    envelope: Tensor
    envelope_slope: Tensor


@dataclass(frozen=True)
class Tabled:
    """Edges, and where they lie in tables that are made anew from the weights at each step.

    A network a node instead of one an edge; its error is below float32's own.
    """

    receivers: Tensor
    senders: Tensor
    spots: Spots
    nodes: Nodes

    def filters(self, messages: Messages) -> Tensor:
        """(E, H)."""
        return self.spots.read(messages.table(self.nodes))


View = Radial | Tabled  # what a layer reads of the edges


class ProbeLayer(nn.Module):
    """What a probe keeps, and what it takes over."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.gate = Softened(hidden, hidden, hidden)
        self.transition = Softened(hidden, hidden, hidden)

    def forward(self, sent: Tensor, s: Tensor | None, edges: View, count: int) -> Tensor:
        new = self.transition(self.messages(sent, s, edges, count))
        held = sent.new_zeros(1, sent.shape[1]) if s is None else s
        gate = torch.sigmoid(self.gate(held))
        return held * gate + (1 - gate) * new


class AtomLayer(nn.Module):
    """s += L(ssp(L(M)))."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.transition = Softened(hidden, hidden, hidden)

    def forward(self, s: Tensor, edges: View) -> Tensor:
        return s + self.transition(self.messages(s, s, edges, s.shape[0]))


class SchNetReader:
    """Densities at the probes that a structure's atoms reach, with filters from tables.

    The first layer's messages and gate are functions of the atoms and of nothing, made once.
    """

    def __init__(self, network: SchNetDensity, layers: list[Senders], tables: list[Tensor]) -> None:
        self.network, self.tables = network, tables
        self.layers = network.probes()
        messages = [each.messages for each in self.layers]
        self.owns = [m.own(sent.scalars) for m, sent in zip(messages, layers, strict=True)]
        self.first = messages[0].node.second(ssp(self.owns[0]))  # (A, H)
        nothing = layers[0].scalars.new_zeros(1, network.config.hidden)
        self.gate = torch.sigmoid(self.layers[0].gate(nothing))  # (1, H)

    def read(self, edges: Reached) -> Tensor:
        """(R,) e/Angstrom^3."""
        bins = self.tables[0].shape[0] // 2
        spots = Spots.of(edges.lengths, bins, self.network.config.cutoff)
        run = sums(edges, spots, self.tables[0], self.network.config.hidden)
        one, *others = self.layers
        new = _soft(one.transition, run.scalar_sums(self.tables[0], self.first, True), run)
        s = new * (1 - self.gate)
        for layer, table, own in zip(others, self.tables[1:], self.owns[1:], strict=True):
            other = product(s, layer.messages.sides()[1])  # (R, 2 H)
            nodes = layer.messages.node.second(run.pairs(own, other))
            new = _soft(layer.transition, run.scalar_sums(table, nodes, False), run)
            s = torch.lerp(new, s, _soft(layer.gate, s, run).sigmoid_())
        before = run.softened(self.network.before_readout(s))
        return self.network.readout(before).squeeze(1)


def _soft(layers: Perceptron, x: Tensor, run: Plain) -> Tensor:
    """L(ssp(L(x)))."""
    return layers.second(run.softened(layers.first(x)))


class SchNetDensity(DeepDFT):
    """The network; see the module."""

    Config: ClassVar[type[DeepDFTConfig]] = SchNetDensityConfig
    FILTER: ClassVar[str] = "messages.edge"
    MARK: ClassVar[str] = (
        "probe_model.messagesum_layers.0.message_function.msg_function_edge.0.weight"
    )

    def __init__(self, config: SchNetDensityConfig) -> None:
        super().__init__(config)
        self.step = config.step
        self.basis_size = math.ceil(config.cutoff / config.step - 1e-9)
        sizes = config.hidden, self.basis_size
        self.atom_layers = nn.ModuleList(AtomLayer(*sizes) for _ in range(config.layers))
        self.probe_layers = nn.ModuleList(ProbeLayer(*sizes) for _ in range(config.layers))

    def probes(self) -> list[ProbeLayer]:
        """The layers of the probes."""
        return [cast(ProbeLayer, layer) for layer in self.probe_layers]

    def basis(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) lengths -> (E, K) Gaussians, (E, 1) envelope."""
        centres = self.step * torch.arange(self.basis_size, dtype=r.dtype, device=r.device)
        gaussians = torch.exp(-0.5 * ((r[:, None] - centres) / self.step).square())
        return gaussians, 1 - torch.sigmoid(STEEP * (r[:, None] - (self.config.cutoff - SOFT)))

    def radial(self, edges: Edges) -> View:
        """What the messages read of the edges' lengths; tables where edges are many."""
        r, ends = edges.lengths, (edges.receivers, edges.senders)
        if r.dtype == torch.float64 or len(r) < 2 * BINS:
            return Radial(*ends, *self.basis(r))
        return Tabled(*ends, Spots.of(r, BINS, self.config.cutoff), self.nodes(r))

    def nodes(self, like: Tensor) -> Nodes:
        """The nodes of a table of a filter."""
        r = torch.linspace(0, self.config.cutoff, BINS, dtype=like.dtype, device=like.device)
        (gaussians, envelope), bin_ = self.basis(r), self.config.cutoff / (BINS - 1)
        centres = self.step * torch.arange(self.basis_size, dtype=r.dtype, device=r.device)
        steep = gaussians * (centres - r[:, None]) * (bin_ / self.step**2)
        return Nodes(gaussians, steep, envelope, envelope * (envelope - 1) * (STEEP * bin_))

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, H layers): L(ssp(L(e))) c of every probe layer."""
        basis, envelope = self.basis(r)
        return torch.cat([p.messages.edge(basis) * envelope for p in self.probes()], 1)

    def reader(self, layers: list[Senders], tables: list[Tensor]) -> SchNetReader:
        """The probes of a structure, to be read from tables."""
        return SchNetReader(self, layers, tables)

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        radial, s, found = self.radial(edges), self.embedding(types), []
        for layer in self.atom_layers:
            s = layer(s, radial)
            found.append(Senders(s))
        return found

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        radial, s = self.radial(edges), None
        for layer, sent in zip(self.probe_layers, layers, strict=True):
            s = layer(sent.scalars, s, radial, probes)
        assert s is not None
        return self.readout(ssp(self.before_readout(s))).squeeze(1)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[SchNetDensityConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        names: dict[str, str] = {}
        for k in range(config["num_interactions"]):
            atom, probe = f"atom_model.interactions.{k}", "probe_model"
            message = "message_function.msg_function"
            parts = {
                f"{atom}.message_sum_module.{message}_edge": f"atom_layers.{k}.messages.edge",
                f"{atom}.message_sum_module.{message}_node": f"atom_layers.{k}.messages.node",
                f"{atom}.state_transition_function": f"atom_layers.{k}.transition",
                f"{probe}.messagesum_layers.{k}.{message}_edge": f"probe_layers.{k}.messages.edge",
                f"{probe}.messagesum_layers.{k}.{message}_node": f"probe_layers.{k}.messages.node",
                f"{probe}.probe_state_gate_functions.{k}": f"probe_layers.{k}.gate",
                f"{probe}.probe_state_transition_functions.{k}": f"probe_layers.{k}.transition",
            }
            for theirs, ours in parts.items():
                names |= {f"{theirs}.0": f"{ours}.first", f"{theirs}.2": f"{ours}.second"}
        fields, state = published_common(weights, config, names)
        return SchNetDensityConfig(**fields, step=config["gaussian_expansion_step"]), state
