"""The equivariant DeepDFT: PaiNN's messages, gated on the probes (Jorgensen and Bhowmik 2022).

    radial   e_n(r) = sin(n pi r / r_c) / r   (n pi / r_c at 0)            PaiNNDensity.basis
             c(r)   = (cos(pi r / r_c) + 1) / 2,   u = d / |d|, sender to receiver
    message  (a, b, g) = L_filter(e) c * L(silu(L(s_j)))                   Messages
             ds_i = sum_j s_j g,   dv_i = sum_j (v_j a + u b)              summed_messages
    update   U = W_U v,  V = W_V v,  (p, q, t) = L(silu(L[s, |V|]))        Update
             s += p + q <U, V>,   v += t U
    atoms    s = Emb(z), v = 0;   s += ds,  v += dv;   update              AtomLayer
    probes   s = v = 0;   (gs, gv) = sigmoid(L(silu(L(ds))))               ProbeLayer
             s = gs s + (1 - gs) ds,   v = gv v + (1 - gv) dv;   update
    density  rho = L(silu(L(s)))                                           PaiNNDensity.density_of

As coded: the factor s_j in ds is not in PaiNN's paper. A probe's last v is read by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.base import Arguments
from neupol_cli.models.deepdft.config import DeepDFTConfig, PaiNNDensityConfig
from neupol_cli.models.deepdft.kernels.messages import compiled_messages, library
from neupol_cli.models.deepdft.kernels.painn_probes import PaiNNProbeLayer, PaiNNProbes
from neupol_cli.models.deepdft.kernels.updates import updates
from neupol_cli.models.deepdft.messages import Ends, summed_messages
from neupol_cli.models.deepdft.network import DeepDFT, Senders
from neupol_cli.models.deepdft.published import published_painn
from neupol_cli.models.distance import cosine_envelope
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.linear import Linear, Perceptron, product
from neupol_cli.models.nn.unique_edges import UniqueEdges
from neupol_cli.models.streaming import forces_are_learnt


@dataclass(frozen=True)
class Radial:
    """Edges and the functions of their geometry.

    L(e) c is one product of [e c, c], whose last column takes the bias.

    Attributes:
        receivers, senders: (E,).
        basis: (E, K + 1) [e c, c].
        directions: (E, 3) unit vectors to the receiver.
        mutual: how many edges, the first ones, stand for their reverse as well.
    """

    receivers: Tensor
    senders: Tensor
    basis: Tensor
    directions: Tensor
    mutual: int = 0


class Messages(nn.Module):
    """ds and dv of the formula above."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.filter = Linear(basis, 3 * hidden)
        self.node = Perceptron(hidden, hidden, 3 * hidden)

    def filters(self, basis: Tensor) -> Tensor:
        """(E, K + 1) -> (E, 3 H) L_filter(e) c."""
        return product(basis, self.filter_weight())

    def filter_weight(self) -> Tensor:
        """(3 H, K + 1) whose last column is the bias."""
        return torch.cat((self.filter.weight, self.filter.bias[:, None]), 1)

    def offers(self, sent: Senders) -> Tensor:
        """(A, 5, H) what an atom brings to a message: s g, b, and v a of x, y, z."""
        s, v = sent
        a, b, g = self.node(s).chunk(3, 1)
        g = self.scalar_offers(s, g)
        va = torch.zeros_like(s)[:, None].expand(-1, 3, -1) if v is None else v * a[:, None]
        return torch.cat((torch.stack((g, b), 1), va), 1)

    def scalar_offers(self, s: Tensor, g: Tensor) -> Tensor:
        """(A, H) an atom's part of ds: as DeepDFT's code has it, times its state."""
        return s * g

    def forward(self, sent: Senders, edges: Radial, count: int) -> tuple[Tensor, Tensor]:
        """(A, H) scalars and (A, 3, H) vectors of the senders -> (count, H), (count, 3, H)."""
        offers = self.offers(sent)
        ends = Ends(edges.senders, edges.receivers, edges.directions, count, edges.mutual)
        loops = None if forces_are_learnt() else library(offers, self.hidden)
        if loops is None:
            return summed_messages(self.filters(edges.basis), offers, ends)
        return compiled_messages(edges.basis, self.filter_weight(), offers, ends, loops)


class Update(nn.Module):
    """Scalars and vectors of one point talk to each other.

    Args:
        hidden: H.
        soft: softens |V| where V vanishes; see updates.py.
    """

    def __init__(self, hidden: int, soft: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.soft = hidden, soft
        self.left = Linear(hidden, hidden, bias=False)  # W_U
        self.right = Linear(hidden, hidden, bias=False)  # W_V
        self.mix = Perceptron(2 * hidden, hidden, 3 * hidden)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(P, H), (P, 3, H) -> the same."""
        by = updates(s, self.hidden, forces_are_learnt())
        inputs, products, left = by.meet(s, self.both(v), self.soft)
        return by.change(s, v, left, products, self.mix(inputs))

    def scalars(self, s: Tensor, v: Tensor) -> Tensor:
        """The next scalars alone, where nobody reads the vectors, nor t."""
        by = updates(s, self.hidden, forces_are_learnt())
        inputs, products, _ = by.meet(s, self.both(v), self.soft)
        second, read = self.mix.second, slice(2 * self.hidden)
        hidden = self.mix.activation(self.mix.first(inputs))
        mixed = product(hidden, second.weight[read], second.bias[read])
        p, q = mixed.chunk(2, 1)
        return s + p + q * products

    def both(self, v: Tensor) -> Tensor:
        """(P, 3, H) -> (P, 3, 2 H) U and V."""
        return product(v, torch.cat((self.left.weight, self.right.weight)))


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

    def forward(
        self, sent: Senders, own: Senders | None, edges: Radial, count: int, last: bool
    ) -> Senders:
        """The probes' state behind this layer; of the ``last``, without vectors.

        ``own`` is the state before, None for zeros.
        """
        ds, dv = self.messages(sent, edges, count)
        by = updates(ds, self.update.hidden, forces_are_learnt())
        s, v = by.gate(self.gate(ds), ds, dv, *(own or (None, None)))
        return Senders(self.update.scalars(s, v)) if last else Senders(*self.update(s, v))


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

    def basis(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) lengths -> (E, K) sines, (E, 1) envelope."""
        orders = torch.arange(1, self.basis_size + 1, dtype=r.dtype, device=r.device)
        pitch = math.pi / self.config.cutoff * orders  # (K,) 1/Angstrom
        # At r = 0 the sines are at their limits; their derivatives there are taken to be zero.
        apart = (r > 0)[:, None]
        waves = torch.sin(r[:, None] * pitch) / torch.where(apart, r[:, None], 1.0)
        return torch.where(apart, waves, pitch), cosine_envelope(r, self.config.cutoff)[:, None]

    def scaled_basis(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, K + 1) [e c, c]."""
        basis, envelope = self.basis(r)
        return torch.cat((basis * envelope, envelope), 1)

    def radial(self, edges: Edges, mutual: int = 0) -> Radial:
        """What the messages read of the edges' geometry; of the first ``mutual``, both ways."""
        basis = self.scaled_basis(edges.lengths)
        return Radial(edges.receivers, edges.senders, basis, -edges.directions, mutual)

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        unique = UniqueEdges.of(edges)
        radial = self.radial(unique.edges, unique.mutual)
        sent, states = Senders(self.embedding(types)), []
        for layer in self.atom_layers:
            sent = layer(sent, radial)
            states.append(sent)
        return states

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        radial, own, last = self.radial(edges), None, len(layers) - 1
        for n, (layer, sent) in enumerate(zip(self.probe_layers, layers, strict=True)):
            own = layer(sent, own, radial, probes, n == last)
        assert own is not None
        return self.density_of(own.scalars)

    def density_of(self, s: Tensor) -> Tensor:
        """(P, H) last scalars -> (P,) e/Angstrom^3."""
        return self.readout(functional.silu(self.before_readout(s))).squeeze(1)

    def probes(self) -> list[ProbeLayer]:
        """The layers of the probes."""
        return [cast(ProbeLayer, layer) for layer in self.probe_layers]

    def filters(self, r: Tensor) -> Tensor:
        """(E,) lengths -> (E, 3 H layers): L(e) c of every probe layer."""
        basis = self.scaled_basis(r)
        return torch.cat([layer.messages.filters(basis) for layer in self.probes()], 1)

    def evaluator(self, layers: list[Senders], tables: list[Tensor]) -> PaiNNProbes:
        """A faster :meth:`received`; nobody reads the last layer's t."""
        hidden = self.config.hidden
        mixes = [3 * hidden] * (self.config.layers - 1) + [2 * hidden]
        steps = [
            PaiNNProbeLayer(
                offers=layer.messages.offers(sent),
                table=table,
                gate=layer.gate,
                vector_maps=torch.cat((layer.update.left.weight, layer.update.right.weight)),
                mix=layer.update.mix,
                mixes=rows,
            )
            for layer, sent, table, rows in zip(self.probes(), layers, tables, mixes, strict=True)
        ]
        return PaiNNProbes(steps, self.density_of, self.config.cutoff)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[PaiNNDensityConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return published_painn(weights, config)
