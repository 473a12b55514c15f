"""The equivariant transformer of TorchMD-NET (Tholke and de Fabritiis 2022), with movable points.

    C(r) = (cos(pi r / r_c) + 1) / 2;  e(r) = C(r) h(r)       RadialEncoding
           h_k(r) = exp(-beta_k (exp(-(5 / r_c) r) - mu_k)^2), or another encoding of distance.py
    s_i = Emb(z_i);  n_i = sum_{j != i} C(r_ij) L(e(r_ij)) Emb'(z_j)
    s_i = L[s_i, n_i];  V_i = 0                               Neighbourhood
    per layer, y = LayerNorm(s):                              Layer
      (q, k, v0, v2, v1) = L(y);  w = V v1
      a_ij, X_i, Y_i from attention.py, i its own neighbour at r = 0
      (w1, w2, w3) = L V;  (o1, o2, o3) = L X
      s += <w1, w2> o2 + o3;  V += w3 o1 + Y
    y from LayerNorm(s_i) and V_i                             heads.py

The same function as the published code for fewer operations: an atom is its own neighbour without
being in the list of edges; the first layer knows that V is zero; the heads leave out the vectors
that nobody reads. kernels/choice.py says what runs in place of attention.py's attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.base import Arguments, Backbone, PropertyConfig
from neupol_cli.models.distance import RadialBasisConfig, cosine_envelope, encoding
from neupol_cli.models.equivariant_transformer.attention import (
    AttentionShape,
    MessageInputs,
    packed,
    scaled,
    unpacked,
    updated,
)
from neupol_cli.models.equivariant_transformer.config import EquivariantTransformerConfig
from neupol_cli.models.equivariant_transformer.heads import HEADS, xavier
from neupol_cli.models.equivariant_transformer.kernels.choice import attention
from neupol_cli.models.equivariant_transformer.published import (
    recognised,
    settings_of,
    state_of,
    units_of,
)
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.linear import Linear
from neupol_cli.models.nn.unique_edges import UniqueEdges
from neupol_cli.models.targets import READOUTS


class EdgeFeatures(NamedTuple):
    """What every layer reads of the same edges.

    Attributes:
        neighbours: unique edges between two points; of atoms, if movable points lie on them.
        edges: these and, behind them, each point with itself, Q in all; with copies, then.
        encoded: (Q, K) e of each.
        envelope: (Q, 1) C of each.
    """

    neighbours: UniqueEdges
    edges: UniqueEdges
    encoded: Tensor
    envelope: Tensor


class RadialEncoding(nn.Module):
    """e(r) = C(r) h(r); one encoding for all layers, as published."""

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        basis = RadialBasisConfig.of(config, config.cutoff)
        self.encoding = encoding(config.encoding, basis)
        self.size = int(self.encoding.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges, points: int) -> EdgeFeatures:
        """e and C of some edges among ``points``; worked out once for the same edges."""
        return edges.once(self, lambda: self._features(edges, points))

    def _features(self, edges: Edges, points: int) -> EdgeFeatures:
        if edges.coinciding is None:
            neighbours = UniqueEdges.of(edges)
            unique = neighbours.with_self_loops(points)
        else:
            neighbours = UniqueEdges.of(edges.coinciding)
            unique = neighbours.with_self_loops(points // 2, copies=points // 2)
        envelope = cosine_envelope(unique.edges.lengths, self.cutoff)[:, None]  # (Q, 1)
        encoded = self.encoding(unique.edges) * envelope  # (Q, K)
        return EdgeFeatures(neighbours, unique, encoded, envelope)


class Neighbourhood(nn.Module):
    """L[s_i, sum_j C(r_ij) L(e(r_ij)) Emb'(z_j)]: the first scalars know who is near."""

    def __init__(self, types: int, hidden: int, radial: RadialEncoding) -> None:
        super().__init__()
        self.embedding = nn.Embedding(types, hidden)
        self.distance = xavier(Linear(radial.size, hidden))
        self.combine = xavier(Linear(2 * hidden, hidden))

    def forward(self, s: Tensor, types: Tensor, features: EdgeFeatures) -> Tensor:
        """(P, H) Emb(z), (P,) types z -> (P, H) the first scalars."""
        apart = slice(0, len(features.neighbours))  # without self loops
        filters = self.distance(features.encoded[apart]) * features.envelope[apart]  # (Q - P, H)
        sent = self.embedding(types)  # (P, H)
        atoms = features.edges.copies
        if not atoms:
            return self.combine(torch.cat((s, _sums(filters, sent, features.neighbours)), 1))
        # An atom and the point on it receive the same from all but each other.
        n = _sums(filters, sent[:atoms] + sent[atoms:], features.neighbours)  # (A, H)
        own = self.distance(features.encoded[-1:]) * features.envelope[-1:]
        n = torch.cat((n + own * sent[atoms:], n + own * sent[:atoms]))
        return self.combine(torch.cat((s, n), 1))


def _sums(filters: Tensor, sent: Tensor, edges: UniqueEdges) -> Tensor:
    """(P, H) sum_j filter_ij sent_j, of filters (Q, H) of unique edges and sent (P, H)."""
    n = torch.zeros_like(sent)
    for tile, to in edges.directions():
        n = n.index_add(0, to.receivers, filters[tile] * sent.index_select(0, to.senders))
    return n


class Layer(nn.Module):
    """One attention layer on states (P, 4 H): H scalars, then H vectors."""

    def __init__(
        self, config: EquivariantTransformerConfig, radial: RadialEncoding, first: bool
    ) -> None:
        super().__init__()
        hidden = config.hidden
        self.hidden, self.first = hidden, first
        self.shape = AttentionShape(config.heads, config.vector_cutoff)
        # In a tuple: the backbone owns it, and its weights shall be counted once.
        self.radial = (radial,)
        self.norm = nn.LayerNorm(hidden)
        # q, k, v0, v2 and v1 at points, k, v0, v2 and v1 at distances. Without vectors, nothing
        # reads v1, dv1, o1, o2 and the vectors' own product.
        blocks = (1, 1, 3, 3) if first else (1, 1, 3, 3, 3)
        self.inputs = xavier(Linear(hidden, len(blocks) * hidden), blocks)
        self.distances = xavier(Linear(radial.size, len(blocks[1:]) * hidden), blocks[1:])
        if first:
            self.outputs = xavier(Linear(hidden, hidden), (3,))
        else:
            self.outputs = xavier(Linear(hidden, 3 * hidden))
            self.vectors = xavier(Linear(hidden, 3 * hidden, bias=False))

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        """(P, 4 H) the state before -> (R, 4 H) behind it, of those that somebody reads."""
        features = self.radial[0](edges, state.shape[0])
        step = self._first if self.first else self._later
        return step(state, features, edges.first_receiver)

    def _first(self, state: Tensor, features: EdgeFeatures, first: int) -> Tensor:
        """s += o3, V = Y: what is left where V is zero."""
        s = state[:, : self.hidden]
        no_vectors = s.new_empty(len(s), 0, self.hidden)
        inputs = self._message_inputs(self.inputs(self.norm(s)), no_vectors, features)
        x, y = attention(inputs, features.edges, self.shape)  # (P, H), (P, 3, H)
        return packed(s[first:] + self.outputs(x[first:]), y[first:])

    def _later(self, state: Tensor, features: EdgeFeatures, first: int) -> Tensor:
        """s += <w1, w2> o2 + o3, V += w3 o1 + Y."""
        s, v = unpacked(state)  # (P, H), (P, 3, H)
        points, v1 = self.inputs(self.norm(s)).tensor_split((4 * self.hidden,), 1)
        inputs = self._message_inputs(points, scaled(v, v1), features)
        x, y = attention(inputs, features.edges, self.shape)  # (P, H), (P, 3, H)
        return updated(state[first:], self.outputs(x[first:]), self.vectors(v[first:]), y[first:])

    def _message_inputs(self, points: Tensor, w: Tensor, features: EdgeFeatures) -> MessageInputs:
        return MessageInputs(
            points,
            w,
            features.encoded,
            self.distances.weight,
            self.distances.bias,
            features.envelope,
            features.edges.edges.directions,
        )


class Projection(nn.Module):
    """pi of Neural Polarization: one linear map without bias from the vectors to one vector.

    It starts at a thousandth of xavier's range: points then start to move from where they are, and
    pi has a gradient from the first step on.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.mix = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.mix.weight, gain=0.001)

    def forward(self, state: Tensor) -> Tensor:
        _, vectors = unpacked(state)  # (P, 3, H)
        return vectors @ self.mix.weight[0]


class EquivariantTransformer(Backbone):
    """The backbone; state ``Hx0e+Hx1o``, the vectors component by component."""

    Config = EquivariantTransformerConfig
    by_element: ClassVar[Mapping[str, int]] = {
        "embedding.weight": 0,
        "neighbourhood.embedding.weight": 0,
    }
    by_target = ("mean",)
    mean: Tensor

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        return tuple(HEADS)

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__(config)
        if config.hidden % config.heads:
            raise UsageError(
                f"hidden={config.hidden} channels cannot be shared out to heads={config.heads}"
            )
        self.hidden, self.cutoff = config.hidden, config.cutoff
        self.irreps = f"{config.hidden}x0e+{config.hidden}x1o"
        types = config.points_per_atom * len(config.species)
        self.radial = RadialEncoding(config)
        self.embedding = nn.Embedding(types, config.hidden)
        self.neighbourhood = Neighbourhood(types, config.hidden, self.radial)
        self.layers = nn.ModuleList(
            Layer(config, self.radial, t == 0) for t in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.heads = nn.ModuleList(HEADS[name](config) for name in self.readouts)
        # What a published network adds to its sum; our own models keep it in PropertyModel.shift.
        columns = sum(READOUTS[name].size for name in self.readouts)
        self.register_buffer("mean", torch.zeros(columns))

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        features = self.radial(edges, types.shape[0])
        s = self.neighbourhood(self.embedding(types), types, features)
        return functional.pad(s, (0, 3 * self.hidden))

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        s, v = unpacked(state)  # (A, H), (A, 3, H)
        s = self.norm(s)
        return torch.cat([head(s, v, graph) for head in self.heads], 1) + self.mean

    def projection(self) -> nn.Module:
        return Projection(self.hidden)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[EquivariantTransformerConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        settings = settings_of(config)
        return EquivariantTransformerConfig(**settings), state_of(weights, settings)

    @staticmethod
    def published_units(weights: Mapping[str, Tensor], config: Arguments) -> Arguments:
        """What stands around the network; its mean and std are in it."""
        return units_of(weights, config)

    @staticmethod
    def recognise(content: object) -> tuple[Mapping[str, Tensor], Arguments] | None:
        """A published checkpoint's weights and arguments, or None if it is another network's."""
        return recognised(content)
