"""PaiNN (Schütt, Unke and Gastegger 2021, arXiv 2102.03150), with movable points.

    radial   e_n(r) = sqrt(2/r_c) sin(n pi r / r_c) / r,  or another encoding of distance.py
             C(r)   = (cos(pi r / r_c) + 1) / 2,   u = d / |d|, sender to receiver
    start    s_i = Emb(z_i), v_i = 0
    message  (a, b, g) = L(e) C * L(silu(L(s_j)))
             ds_i = sum_j g,   dv_i = sum_j (v_j a + u b);   s += ds,  v += dv
    update   U = W_U v,  V = W_V v,  (p, q, t) = L(silu(L[s, |V|]))
             s += p + q <U, V>,   v += t U
    y from s_i and v_i                                        heads.py

Messages and update are those of DeepDFT's equivariant network (deepdft/painn.py), without the
factor s_j that its code has. With softening |V| is smooth where V vanishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.base import Backbone, PropertyConfig
from neupol_cli.models.deepdft.network import Senders
from neupol_cli.models.deepdft.painn import Messages, Radial, Update
from neupol_cli.models.distance import RadialBasisConfig, cosine_envelope, encoding
from neupol_cli.models.equivariant_transformer.attention import packed, unpacked
from neupol_cli.models.equivariant_transformer.heads import SOFT
from neupol_cli.models.equivariant_transformer.network import Projection
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.unique_edges import UniqueEdges
from neupol_cli.models.painn.config import PaiNNConfig
from neupol_cli.models.painn.heads import HEADS


class RadialEncoding(nn.Module):
    """[e C, C] of edges, and their directions; one encoding for all layers."""

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        self.encoding = encoding(config.encoding, RadialBasisConfig.of(config, config.cutoff))
        self.size = int(self.encoding.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges) -> Radial:
        """What the messages read of the edges' geometry; worked out once for the same edges."""
        return edges.once(self, lambda: self._radial(UniqueEdges.of(edges)))

    def _radial(self, unique: UniqueEdges) -> Radial:
        edges = unique.edges
        envelope = cosine_envelope(edges.lengths, self.cutoff)[:, None]
        basis = torch.cat((self.encoding(edges) * envelope, envelope), 1)
        return Radial(edges.receivers, edges.senders, basis, -edges.directions, unique.mutual)


class PropertyMessages(Messages):
    """The messages of the formula above: without s_j in ds."""

    def scalar_offers(self, s: Tensor, g: Tensor) -> Tensor:
        return g


class Layer(nn.Module):
    """Messages, then the update, on states (P, 4 H): H scalars, then H vectors."""

    def __init__(self, config: PaiNNConfig, radial: RadialEncoding) -> None:
        super().__init__()
        # In a tuple: the backbone owns it, and its weights shall be counted once.
        self.radial = (radial,)
        self.messages = PropertyMessages(config.hidden, radial.size)
        self.update = Update(config.hidden, SOFT if config.softening > 0 else 0.0)

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        """(P, 4 H) the state before -> (P, 4 H) the state behind this layer."""
        s, v = unpacked(state)
        ds, dv = self.messages(Senders(s, v), self.radial[0](edges), len(state))
        return packed(*self.update(s + ds, v + dv))


class PaiNN(Backbone):
    """The backbone; state ``Hx0e+Hx1o``, the vectors component by component."""

    Config = PaiNNConfig
    by_element: ClassVar[Mapping[str, int]] = {"embedding.weight": 0}

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        return tuple(HEADS)

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__(config)
        self.hidden, self.cutoff = config.hidden, config.cutoff
        self.irreps = f"{config.hidden}x0e+{config.hidden}x1o"
        radial = RadialEncoding(config)
        self.radial = radial
        types = config.points_per_atom * len(config.species)
        self.embedding = nn.Embedding(types, config.hidden)
        self.layers = nn.ModuleList(Layer(config, radial) for _ in range(config.layers))
        self.heads = nn.ModuleList(HEADS[name](config) for name in self.readouts)

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        return functional.pad(self.embedding(types), (0, 3 * self.hidden))

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        s, v = unpacked(state)  # (A, H), (A, 3, H)
        return torch.cat([head(s, v, graph) for head in self.heads], 1)

    def projection(self) -> nn.Module:
        return Projection(self.hidden)
