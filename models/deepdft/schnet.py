"""The invariant DeepDFT, SchNet's messages with gates on the probes (Jorgensen, Bhowmik 2020).

    radial   e_k(r) = exp(-(r - 0.1 k)^2 / (2 0.1^2)),  0.1 k < r_c        SchNetDensity.basis
             c(r)   = 1 - sigmoid(5 (r - (r_c - 1.5)))     5.5e-4 at the cutoff: the density jumps
    ssp      ssp(x) = softplus(x) - ln 2                                   softplus.py
    message  M_i = sum_j L(ssp(L[s_j, s_i])) * L(ssp(L(e(r_ij)))) c(r_ij)  Messages
    atoms    s = Emb(z);   s += L(ssp(L(M)))                               AtomLayer
    probes   s = 0;   g = sigmoid(L(ssp(L(s))))                            ProbeLayer
             s = g s + (1 - g) L(ssp(L(M)))
    density  rho = L(ssp(L(s)))                                            SchNetDensity.received

L[s_j, s_i] is split into a product an atom and one a receiver. Probes begin with s = 0, so that
their first messages are functions of the atoms alone, computed an atom and not an edge; their
first gate has nothing but its biases to say, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from neupol_cli.models.base import Arguments
from neupol_cli.models.deepdft.config import DeepDFTConfig, SchNetDensityConfig
from neupol_cli.models.deepdft.kernels.choice import kernels
from neupol_cli.models.deepdft.kernels.schnet_probes import SchNetProbeLayer, SchNetProbes
from neupol_cli.models.deepdft.kernels.softplus import ssp, ssp_of_ends
from neupol_cli.models.deepdft.kernels.step_filters import FilterNodes, TabledFilters
from neupol_cli.models.deepdft.network import DeepDFT, Senders
from neupol_cli.models.deepdft.published import published_schnet
from neupol_cli.models.nn.graph import Edges, segment_sum
from neupol_cli.models.nn.hermite import TableLookup
from neupol_cli.models.nn.linear import Perceptron, product

SOFT = 1.5  # Angstrom before the cutoff, where the envelope is one half
STEEP = 5.0  # 1/Angstrom
BINS = 513  # nodes of the tables of a step of training


# L(ssp(L(.)))
Softened = partial(Perceptron, activation=ssp)


@dataclass(frozen=True)
class Filters:
    """L(ssp(L(e))) c of every edge, from basis (E, K) and envelope (E, 1)."""

    basis: Tensor
    envelope: Tensor

    def __call__(self, network: Perceptron) -> Tensor:
        """(E, H) the filters of one message network."""
        return network(self.basis) * self.envelope


@dataclass(frozen=True)
class Radial:
    """Edges and the filters of their lengths.

    Attributes:
        receivers, senders: (E,).
        filters: from a message network to its (E, H) filters.
    """

    receivers: Tensor
    senders: Tensor
    filters: Callable[[Perceptron], Tensor]


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

    def forward(self, sent: Tensor, received: Tensor | None, edges: Radial, count: int) -> Tensor:
        """(A, H) senders and (count, H) receivers, None for zeros -> (count, H)."""
        own = self.own(sent)  # (A, 2H)
        if received is None:
            nodes = self.node.second(ssp(own)).index_select(0, edges.senders)
        else:
            other = product(received, self.sides()[1])  # (count, 2H)
            nodes = self.node.second(ssp_of_ends(own, other, edges.senders, edges.receivers))
        return segment_sum(nodes * edges.filters(self.edge), edges.receivers, count)


class ProbeLayer(nn.Module):
    """What a probe keeps, and what it takes over."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.gate = Softened(hidden, hidden, hidden)
        self.transition = Softened(hidden, hidden, hidden)

    def forward(self, sent: Tensor, s: Tensor | None, edges: Radial, count: int) -> Tensor:
        new = self.transition(self.messages(sent, s, edges, count))
        own = sent.new_zeros(1, sent.shape[1]) if s is None else s
        gate = torch.sigmoid(self.gate(own))
        return own * gate + (1 - gate) * new


class AtomLayer(nn.Module):
    """s += L(ssp(L(M)))."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.transition = Softened(hidden, hidden, hidden)

    def forward(self, s: Tensor, edges: Radial) -> Tensor:
        return s + self.transition(self.messages(s, s, edges, s.shape[0]))


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

    def basis(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) lengths -> (E, K) Gaussians, (E, 1) envelope."""
        centres = self.step * torch.arange(self.basis_size, dtype=r.dtype, device=r.device)
        gaussians = torch.exp(-0.5 * ((r[:, None] - centres) / self.step).square())
        return gaussians, 1 - torch.sigmoid(STEEP * (r[:, None] - (self.config.cutoff - SOFT)))

    def radial(self, edges: Edges) -> Radial:
        """What the messages read of the edges' lengths; tables where edges are many."""
        r, ends = edges.lengths, (edges.receivers, edges.senders)
        if len(r) < 2 * BINS or not kernels(r, self.config.hidden).tables:
            return Radial(*ends, Filters(*self.basis(r)))
        lookup = TableLookup.of(r, BINS, self.config.cutoff)
        return Radial(*ends, TabledFilters(lookup, self.nodes(r)))

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        radial, s, states = self.radial(edges), self.embedding(types), []
        for layer in self.atom_layers:
            s = layer(s, radial)
            states.append(Senders(s))
        return states

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        radial, s = self.radial(edges), None
        for layer, sent in zip(self.probe_layers, layers, strict=True):
            s = layer(sent.scalars, s, radial, probes)
        assert s is not None
        return self.readout(ssp(self.before_readout(s))).squeeze(1)

    def probes(self) -> list[ProbeLayer]:
        """The layers of the probes."""
        return [cast(ProbeLayer, layer) for layer in self.probe_layers]

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, H layers): L(ssp(L(e))) c of every probe layer."""
        filters = Filters(*self.basis(r))
        return torch.cat([filters(layer.messages.edge) for layer in self.probes()], 1)

    def nodes(self, like: Tensor) -> FilterNodes:
        """The nodes of a table of a filter, with the slopes of basis and envelope."""
        r = torch.linspace(0, self.config.cutoff, BINS, dtype=like.dtype, device=like.device)
        (gaussians, envelope), width = self.basis(r), self.config.cutoff / (BINS - 1)
        centres = self.step * torch.arange(self.basis_size, dtype=r.dtype, device=r.device)
        slopes = gaussians * (centres - r[:, None]) * (width / self.step**2)
        return FilterNodes(gaussians, slopes, envelope, envelope * (envelope - 1) * (STEEP * width))

    def evaluator(self, layers: list[Senders], tables: list[Tensor]) -> SchNetProbes:
        """A faster :meth:`received`."""
        steps = [
            SchNetProbeLayer(
                own=layer.messages.own(sent.scalars),
                receiver=layer.messages.sides()[1],
                second=layer.messages.node.second,
                table=table,
                gate=layer.gate,
                transition=layer.transition,
            )
            for layer, sent, table in zip(self.probes(), layers, tables, strict=True)
        ]
        return SchNetProbes(steps, (self.before_readout, self.readout), self.config.cutoff)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[SchNetDensityConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return published_schnet(weights, config)
