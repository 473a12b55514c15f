"""The equivariant DeepDFT: PaiNN's messages, gated on the probes (Jorgensen and Bhowmik 2022).

    e_n(r) = sin(n pi r / r_c) / r,   c(r) = (cos(pi r / r_c) + 1) / 2,   u from sender to receiver
    (a, b, g) = (L(e) c) * L(silu(L(s_j)));    ds_i = sum_j s_j g,   dv_i = sum_j (v_j a + u b)
    update:  U = W_U v, V = W_V v;   (p, q, t) = L(silu(L[s, |V|]));   s += p + q <U, V>,  v += t U
    atoms:   s += ds, v += dv;  update
    probes:  (gs, gv) = sigmoid(L(silu(L(ds))));  s = gs s + (1 - gs) ds,  v likewise;  update
    rho      = L(silu(L(s)))

As coded: the factor s_j in ds is not in PaiNN's paper. A probe's last v is read by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.deepdft.common import DeepDFT, DeepDFTConfig, Senders
from neupol_cli.models.deepdft.edges import Ends, Reached, messages, sums
from neupol_cli.models.deepdft.published import published_common
from neupol_cli.models.distance import cosine_envelope
from neupol_cli.models.graph import Edges
from neupol_cli.models.linear import Linear, Perceptron, product
from neupol_cli.models.radial_table import Spots


@dataclass(frozen=True)
class PaiNNDensityConfig(DeepDFTConfig):
    """Settings of the equivariant network; the defaults are the published ones.

    Attributes:
        basis: sines.
    """

    basis: int = 30


@dataclass(frozen=True)
class Radial:
    """Edges with [e c, c] (E, K + 1) and unit vectors to the receiver (E, 3).

    L(e) c is one product of the former, whose last column takes the bias.
    """

    receivers: Tensor
    senders: Tensor
    basis: Tensor
    directions: Tensor


class Messages(nn.Module):
    """ds and dv of the formula above."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.filter = Linear(basis, 3 * hidden)
        self.node = Perceptron(hidden, hidden, 3 * hidden)

    def filters(self, basis: Tensor) -> Tensor:
        """(E, K + 1) -> (E, 3 H)."""
        return product(basis, torch.cat((self.filter.weight, self.filter.bias[:, None]), 1))

    def offered(self, sent: Senders) -> Tensor:
        """(A, 5, H) what an atom brings to a message: s g, b, and v a of x, y, z."""
        s, v = sent
        a, b, g = self.node(s).chunk(3, 1)
        moved = torch.zeros_like(s)[:, None].expand(-1, 3, -1) if v is None else v * a[:, None]
        return torch.cat((torch.stack((s * g, b), 1), moved), 1)

    def forward(self, sent: Senders, edges: Radial, count: int) -> tuple[Tensor, Tensor]:
        """-> (count, H), (count, 3, H)."""
        ends = Ends(edges.senders, edges.receivers, edges.directions, count)
        return messages(self.filters(edges.basis), self.offered(sent), ends)


class Update(nn.Module):
    """Scalars and vectors of one point talk to each other."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.left = Linear(hidden, hidden, bias=False)
        self.right = Linear(hidden, hidden, bias=False)
        self.mix = Perceptron(2 * hidden, hidden, 3 * hidden)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(P, H), (P, 3, H) -> the same."""
        left, right = self.left(v), self.right(v)
        mixed = self.mix(torch.cat((s, _length(right)), 1))
        p, q, t = mixed.split(self.hidden, 1)
        return s + p + q * (left * right).sum(1), v + t[:, None] * left


def _length(v: Tensor) -> Tensor:
    """(P, 3, H) -> (P, H); the gradient of a length of zero is zero."""
    squared = v.square().sum(1)
    some = squared > 0
    return torch.where(some, squared, 1.0).sqrt() * some


class AtomLayer(nn.Module):
    """Messages, then the update."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.update = Update(hidden)

    def forward(self, sent: Senders, edges: Radial) -> Senders:
        ds, dv = self.messages(sent, edges, sent.scalars.shape[0])
        v = dv if sent.vectors is None else sent.vectors + dv
        return Senders(*self.update(sent.scalars + ds, v))


class ProbeLayer(nn.Module):
    """Messages through a gate, then the update."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.gate = Perceptron(hidden, 2 * hidden, 2 * hidden)
        self.update = Update(hidden)

    def forward(self, sent: Senders, own: Senders | None, edges: Radial, count: int) -> Senders:
        ds, dv = self.messages(sent, edges, count)
        of_s, of_v = torch.sigmoid(self.gate(ds)).chunk(2, 1)
        s, v = (1 - of_s) * ds, (1 - of_v)[:, None] * dv
        if own is not None and own.vectors is not None:
            s, v = s + of_s * own.scalars, v + of_v[:, None] * own.vectors
        return Senders(*self.update(s, v))


class PaiNNReader:
    """Densities at the probes that a structure's atoms reach, with filters from tables.

    What a message takes from its atom is made once an atom; the last layer's t is left out.
    """

    def __init__(self, network: PaiNNDensity, layers: list[Senders], tables: list[Tensor]) -> None:
        self.network, self.tables = network, tables
        probes = self.layers = network.probes()
        self.sources = [p.messages.offered(sent) for p, sent in zip(probes, layers, strict=True)]
        updates = [probe.update for probe in probes]
        self.sides = [torch.cat((each.left.weight, each.right.weight)) for each in updates]
        hidden = network.config.hidden
        seconds = [each.mix.second for each in updates]
        wide = [3 * hidden] * (len(probes) - 1) + [2 * hidden]
        self.mixes = [(m.weight[:n], m.bias[:n]) for m, n in zip(seconds, wide, strict=True)]

    def read(self, edges: Reached) -> Tensor:
        """(R,) e/Angstrom^3."""
        bins, hidden = self.tables[0].shape[0] // 2, self.network.config.hidden
        spots = Spots.of(edges.lengths, bins, self.network.config.cutoff)
        run = sums(edges, spots, self.tables[0], hidden)
        own: tuple[Tensor, Tensor] | None = None
        given = (self.layers, self.tables, self.sources, self.sides, self.mixes)
        for layer, table, source, sides, (weight, bias) in zip(*given, strict=True):
            ds, dv = run.vector_sums(table, source)
            s, v = run.gated(layer.gate(ds).sigmoid_(), own, ds, dv)
            both = product(v, sides)  # (R, 3, 2 H)
            pair, dot = run.lengths(both, s)
            mixed = product(functional.silu(layer.update.mix.first(pair)), weight, bias)
            run.updated(both, dot, mixed, s, v)
            own = s, v
        assert own is not None
        return self.network.answered(own[0])


class PaiNNDensity(DeepDFT):
    """The network; see the module."""

    Config: ClassVar[type[DeepDFTConfig]] = PaiNNDensityConfig
    FILTER: ClassVar[str] = "messages.filter"
    MARK: ClassVar[str] = "probe_model.message_layers.0.filter_layer.weight"

    def __init__(self, config: PaiNNDensityConfig) -> None:
        super().__init__(config)
        self.basis_size = config.basis
        sizes = config.hidden, config.basis
        self.atom_layers = nn.ModuleList(AtomLayer(*sizes) for _ in range(config.layers))
        self.probe_layers = nn.ModuleList(ProbeLayer(*sizes) for _ in range(config.layers))

    def probes(self) -> list[ProbeLayer]:
        """The layers of the probes."""
        return [cast(ProbeLayer, layer) for layer in self.probe_layers]

    def basis(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) lengths -> (E, K) sines, (E, 1) envelope."""
        orders = torch.arange(1, self.basis_size + 1, dtype=r.dtype, device=r.device)
        pitch = math.pi / self.config.cutoff * orders  # (K,) 1/Angstrom
        # At r = 0 the sines are at their limits; their derivatives there are taken to be zero.
        apart = (r > 0)[:, None]
        waves = torch.sin(r[:, None] * pitch) / torch.where(apart, r[:, None], 1.0)
        return torch.where(apart, waves, pitch), cosine_envelope(r, self.config.cutoff)[:, None]

    def radial(self, edges: Edges) -> Radial:
        """What the messages read of the edges' geometry."""
        return Radial(edges.receivers, edges.senders, self.scaled(edges.lengths), -edges.directions)

    def scaled(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, K + 1) sines and one, times the envelope."""
        basis, envelope = self.basis(r)
        return torch.cat((basis * envelope, envelope), 1)

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, 3 H layers): L(e) c of every probe layer."""
        scaled = self.scaled(r)
        return torch.cat([layer.messages.filters(scaled) for layer in self.probes()], 1)

    def reader(self, layers: list[Senders], tables: list[Tensor]) -> PaiNNReader:
        """The probes of a structure, to be read from tables."""
        return PaiNNReader(self, layers, tables)

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        radial, sent, found = self.radial(edges), Senders(self.embedding(types)), []
        for layer in self.atom_layers:
            sent = layer(sent, radial)
            found.append(sent)
        return found

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        radial, own = self.radial(edges), None
        for layer, sent in zip(self.probe_layers, layers, strict=True):
            own = layer(sent, own, radial, probes)
        assert own is not None
        return self.answered(own.scalars)

    def answered(self, s: Tensor) -> Tensor:
        """(P, H) last scalars -> (P,) e/Angstrom^3."""
        return self.readout(functional.silu(self.before_readout(s))).squeeze(1)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[PaiNNDensityConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        names = {}
        for k in range(config["num_interactions"]):
            layers = {
                f"atom_model.interactions.{k}": f"atom_layers.{k}",
                f"probe_model.message_layers.{k}": f"probe_layers.{k}",
            }
            for theirs, ours in layers.items():
                names[f"{theirs}.filter_layer"] = f"{ours}.messages.filter"
                names |= _two(f"{theirs}.scalar_message_mlp", f"{ours}.messages.node")
            names |= _two(
                f"probe_model.message_layers.{k}.update_gate_mlp", f"probe_layers.{k}.gate"
            )
            for kind in ("atom", "probe"):
                theirs = f"{kind}_model.scalar_vector_update.{k}"
                ours = f"{kind}_layers.{k}.update"
                names |= {f"{theirs}.linearU": f"{ours}.left", f"{theirs}.linearV": f"{ours}.right"}
                names |= _two(f"{theirs}.combined_mlp", f"{ours}.mix")
        fields, state = published_common(weights, config, names)
        return PaiNNDensityConfig(**fields, basis=config["distance_embedding_size"]), state


def _two(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0": f"{ours}.first", f"{theirs}.2": f"{ours}.second"}
