"""A transformer over the atoms of a molecule whose attention knows the distances.

    h_i  = Emb(z_i)                                              DistanceTransformer.embed
    a_ij = softmax_j(q_i . k_j / sqrt(d) + MLP(e(r_ij)))         Attention; MLP is DistanceBias
    h_i += W sum_j a_ij v_j,     (q, k, v) = L LN(h)             Attention, Layer
    h_i += L silu(L LN(h_i))                                     Layer.feed_forward
    y    = sum_i L silu(L LN(h_i))                               readout, one such for each target

The softmax is a head's; j = i, at r = 0, is included.

Gao et al. 2022, footnote 2, plug their encoding into "self attention among
atoms" whose distances enter through "a multi-layer perceptron as the bias vector for the
multi-head attention". No code was published and nothing else is said. Chosen here:

- pre-norm blocks, as deep transformers train best; 6 layers of 128 features, 8 heads, and the
  usual four-fold width between the two layers of the feed-forward part; no dropout;
- SiLU everywhere, so that forces are smooth; the bias MLP has one hidden layer and, like the
  encoding, its own weights in every layer;
- an atom starts as a learned embedding of its element; there is no embedding of its position in
  the list, hence exact permutation symmetry;
- all pairs of a molecule. With a cutoff, exp(logit) of a pair is multiplied by the cosine envelope
  before it is normalised; an atom's own term has the envelope 1, so that the sum never vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from neupol_cli.models.base import Backbone
from neupol_cli.models.distance import RadialBasisConfig, cosine_envelope, encoding
from neupol_cli.models.distance_transformer.config import DistanceTransformerConfig, check
from neupol_cli.models.distance_transformer.kernels.choice import pair_products
from neupol_cli.models.distance_transformer.pairs import PairProducts
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.linear import Linear


class DistanceBias(nn.Module):
    """(E,) distances -> (E, heads) biases, and (heads,) an atom's own at distance zero."""

    def __init__(self, config: DistanceTransformerConfig) -> None:
        super().__init__()
        high = config.cutoff or config.encoding_range
        basis = RadialBasisConfig.of(config, high)
        self.encoding = encoding(config.encoding, basis)
        size = int(self.encoding.size)  # type: ignore[arg-type]
        self.layers = nn.Sequential(
            Linear(size, config.bias_hidden), nn.SiLU(), Linear(config.bias_hidden, config.heads)
        )

    def forward(self, edges: Edges) -> Tensor:
        return self.layers(self.encoding(edges))

    def own(self, edges: Edges) -> Tensor:
        """(heads,) the bias of distance zero."""
        none = edges.receivers.new_zeros(1)
        alone = Edges(none, none, edges.vectors.new_zeros(1, 3))
        return self.layers(self.encoding(alone))[0]


class Attention(nn.Module):
    """(P, H) -> (P, H), the first half of a block without its residual."""

    def __init__(self, config: DistanceTransformerConfig) -> None:
        super().__init__()
        self.heads, self.cutoff = config.heads, config.cutoff
        self.bias = DistanceBias(config)
        self.inputs = Linear(config.hidden, 3 * config.hidden)
        self.output = Linear(config.hidden, config.hidden)

    def forward(self, h: Tensor, edges: Edges) -> Tensor:
        q, k, v = self.inputs(h).unflatten(1, (3, self.heads, -1)).unbind(1)  # (P, heads, d)
        q = q / math.sqrt(q.shape[2])
        pairs = _products(edges, h.shape[0])
        logits = pairs.scores(q, k) + self.bias(edges)  # (E, heads)
        own = (q * k).sum(-1) + self.bias.own(edges)  # (P, heads)
        weights, own = self._exponentials(logits, own, edges)
        total = segment_sum(weights, edges.receivers, h.shape[0]) + own
        summed = pairs.sums(weights, v) + own[..., None] * v
        return self.output((summed / total[..., None]).flatten(1))

    def _exponentials(self, logits: Tensor, own: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """exp(logits - the receiver's largest), under the envelope if there is a cutoff."""
        receivers = edges.receivers
        index = receivers[:, None].expand_as(logits)
        largest = own.detach().scatter_reduce(0, index, logits.detach(), "amax")
        weights = torch.exp(logits - largest.index_select(0, receivers))
        if self.cutoff is not None:
            weights = weights * cosine_envelope(edges.lengths, self.cutoff)[:, None]
        return weights, torch.exp(own - largest)


def _products(edges: Edges, points: int) -> PairProducts:
    """Those of the edges' pairs, whose layout all layers of a pass share."""
    return edges.once(("pair products", points), lambda: pair_products(edges, points))


class Layer(nn.Module):
    """One block; state (P, H)."""

    def __init__(self, config: DistanceTransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden)
        self.attention = Attention(config)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.hidden),
            Linear(config.hidden, config.feed_forward),
            nn.SiLU(),
            Linear(config.feed_forward, config.hidden),
        )

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        state = state + self.attention(self.attention_norm(state), edges)
        return state + self.feed_forward(state)


class DistanceTransformer(Backbone):
    """The backbone; state ``Hx0e``."""

    Config = DistanceTransformerConfig
    by_element: ClassVar[Mapping[str, int]] = {"embedding.weight": 0}

    def __init__(self, config: DistanceTransformerConfig) -> None:
        super().__init__(config)
        check(config)
        hidden = config.hidden
        self.cutoff = config.cutoff
        self.irreps = f"{hidden}x0e"
        self.embedding = nn.Embedding(config.points_per_atom * len(config.species), hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleList(
            nn.Sequential(Linear(hidden, hidden), nn.SiLU(), Linear(hidden, 1))
            for _ in config.targets
        )

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        return self.embedding(types)

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        h = self.norm(state)
        by_atom = torch.cat([head(h) for head in self.heads], 1)  # (A, T)
        return segment_sum(by_atom, graph.batch, graph.size)

    def projection(self) -> nn.Module:
        """Points that never move (``frozen``) need nothing to move them with."""
        return nn.Identity()
