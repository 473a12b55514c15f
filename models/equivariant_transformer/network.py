"""The equivariant transformer of TorchMD-NET (Tholke and de Fabritiis 2022), with movable points.

    e(r) = C(r) h(r), C(r) = (cos(pi r / r_c) + 1) / 2            h a distance encoding
    s_i = L[Emb(z_i), sum_j C(r_ij) L(e(r_ij)) Emb'(z_j)],  V_i = 0
    a layer, with X and Y from attention.py, i its own neighbour at r = 0:
      (w1, w2, w3) = L V;   (o1, o2, o3) = L X
      s += <w1, w2> o2 + o3;   V += w3 o1 + Y
    y from LayerNorm(s_i) and V_i                            heads.py

The same function as the published code for fewer operations: an atom is its own neighbour without
being in the list of edges; the first layer knows that V is zero; the heads leave out the vectors
that nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.distance import Range, cosine_envelope, encoding
from neupol_cli.models.equivariant_transformer.attention import attention
from neupol_cli.models.equivariant_transformer.heads import BY_TARGET, HEADS, xavier
from neupol_cli.models.equivariant_transformer.kernels.attention_radial import Parts, Shape
from neupol_cli.models.equivariant_transformer.pairs import Pairs
from neupol_cli.models.equivariant_transformer.published import (
    recognised,
    settings_of,
    state_of,
    units_of,
)
from neupol_cli.models.equivariant_transformer.update import packed, scaled, unpacked, update
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.linear import Linear
from neupol_cli.models.property import Backbone, PropertyConfig


@dataclass(frozen=True)
class EquivariantTransformerConfig(PropertyConfig):
    """The equivariant transformer's sizes; the defaults are the published QM9 network.

    Attributes:
        hidden: width H of scalars and vectors.
        layers: attention layers.
        heads: attention heads; they share out the H channels.
        cutoff: Angstrom.
        encoding: how a distance enters (models/distance.py); ``expnormal`` as published.
        encoding_size, encoding_bins: its resolution over [0, cutoff].
        vector_cutoff: whether the cutoff's envelope multiplies the vector messages too, so that
            energies are continuous; the paper's own numbers were made without.
        outputs: what each target is read out as: ``scalar``, ``dipole`` or ``extent``. If empty, as
            published: mu is the length of a dipole, r2 a spatial extent, all others are scalars.
    """

    hidden: int = 256
    layers: int = 8
    heads: int = 8
    cutoff: float = 5.0
    encoding: str = "expnormal"
    encoding_size: int = 64
    encoding_bins: int = 64
    vector_cutoff: bool = True
    outputs: tuple[str, ...] = ()


class View(NamedTuple):
    """What every layer reads of the same edges.

    others: pairs of two points; pairs: these and, behind them, each point with itself, Q in all.
    encoded: (Q, K) e of each pair. envelope: (Q, 1) C.
    """

    others: Pairs
    pairs: Pairs
    encoded: Tensor
    envelope: Tensor


class Radial(nn.Module):
    """e(r) = C(r) h(r); one encoding for all layers, as published."""

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        scope = Range(config.encoding_size, config.cutoff, config.encoding_bins)
        self.encoding = encoding(config.encoding, scope)
        self.size = int(self.encoding.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges, points: int) -> View:
        """The view of some edges among ``points``; worked out once for the same edges."""
        kept: dict[Any, Any] = edges.shared
        if self not in kept:
            kept[self] = self._view(edges, points)
        return kept[self]

    def _view(self, edges: Edges, points: int) -> View:
        others = Pairs.of(edges)
        pairs = others.with_own(points)
        envelope = cosine_envelope(pairs.edges.lengths, self.cutoff)[:, None]
        return View(others, pairs, self.encoding(pairs.edges) * envelope, envelope)


class Neighbourhood(nn.Module):
    """L[s_i, sum_j C(r_ij) L(e(r_ij)) Emb'(z_j)]: the first scalars know who is near."""

    def __init__(self, types: int, hidden: int, radial: Radial) -> None:
        super().__init__()
        self.embedding = nn.Embedding(types, hidden)
        self.distance = xavier(Linear(radial.size, hidden))
        self.combine = xavier(Linear(2 * hidden, hidden))

    def forward(self, s: Tensor, types: Tensor, view: View) -> Tensor:
        apart = slice(0, len(view.others))
        filters = self.distance(view.encoded[apart]) * view.envelope[apart]  # (Q - P, H)
        sent = self.embedding(types)  # (P, H)
        near = torch.zeros_like(s)
        for tile, ways in view.others.tiles(len(view.others)):
            for way in ways:
                message = filters[tile] * sent.index_select(0, way.senders)
                near = near.index_add(0, way.receivers, message)
        return self.combine(torch.cat((s, near), 1))


class Layer(nn.Module):
    """One attention layer on states (P, 4 H): H scalars, then H vectors."""

    def __init__(self, config: EquivariantTransformerConfig, radial: Radial, first: bool) -> None:
        super().__init__()
        hidden = config.hidden
        self.hidden, self.first = hidden, first
        self.shape = Shape(config.heads, config.vector_cutoff)
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
        view = self.radial[0](edges, state.shape[0])
        if self.first:
            s = state[:, : self.hidden]
            nothing = s.new_empty(len(s), 0, self.hidden)
            x, y = attention(
                self._parts(self.inputs(self.norm(s)), nothing, view), view.pairs, self.shape
            )
            return packed(s + self.outputs(x), y)
        s, v = unpacked(state)  # (P, H), (P, 3, H)
        points, v1 = self.inputs(self.norm(s)).tensor_split((4 * self.hidden,), 1)
        x, y = attention(self._parts(points, scaled(v, v1), view), view.pairs, self.shape)
        return update(state, self.outputs(x), self.vectors(v), y)

    def _parts(self, points: Tensor, w: Tensor, view: View) -> Parts:
        return Parts(
            points,
            w,
            view.encoded,
            self.distances.weight,
            self.distances.bias,
            view.envelope,
            view.pairs.edges.directions,
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
        vectors = state[:, self.hidden :].unflatten(1, (self.hidden, 3))
        return torch.einsum("phx,h->px", vectors, self.mix.weight[0])


class EquivariantTransformer(Backbone):
    """The backbone; state ``Hx0e+Hx1o``."""

    Config = EquivariantTransformerConfig
    mean: Tensor

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__(config)
        if config.hidden % config.heads:
            raise UsageError(
                f"hidden={config.hidden} channels cannot be shared out to heads={config.heads}"
            )
        self.hidden, self.cutoff = config.hidden, config.cutoff
        self.irreps = f"{config.hidden}x0e+{config.hidden}x1o"
        types = config.kinds * len(config.species)
        self.radial = Radial(config)
        self.embedding = nn.Embedding(types, config.hidden)
        self.neighbourhood = Neighbourhood(types, config.hidden, self.radial)
        self.layers = nn.ModuleList(
            Layer(config, self.radial, t == 0) for t in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.outputs = _outputs(config)
        self.heads = nn.ModuleList(HEADS[name](config.hidden) for name in self.outputs)
        # What a published network adds to its sum; our own models keep it in PropertyModel.shift.
        self.register_buffer("mean", torch.zeros(len(config.targets)))

    def embed(self, types: Tensor, edges: Any) -> Tensor:
        view = self.radial(edges, types.shape[0])
        s = self.neighbourhood(self.embedding(types), types, view)
        return functional.pad(s, (0, 3 * self.hidden))

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        s, v = unpacked(state)
        s = self.norm(s)
        return torch.cat([head(s, v, graph) for head in self.heads], 1) + self.mean

    @property
    def offsets(self) -> tuple[bool, ...]:
        """A length and an extent have no mean to be taken off."""
        return tuple(name == "scalar" for name in self.outputs)

    def projection(self) -> nn.Module:
        return Projection(self.hidden)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[EquivariantTransformerConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        settings = settings_of(config)
        return EquivariantTransformerConfig(**settings), state_of(weights, settings)

    @staticmethod
    def published_units(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What stands around the network; its mean and std are in it."""
        return units_of(weights, config)

    @staticmethod
    def recognise(content: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A published checkpoint's weights and arguments, or None if it is another network's."""
        return recognised(content)


def _outputs(config: EquivariantTransformerConfig) -> tuple[str, ...]:
    """The head of each target. UsageError: another number of them, or a name that is none."""
    if not config.outputs:
        return tuple(BY_TARGET.get(target, "scalar") for target in config.targets)
    strange = [name for name in config.outputs if name not in HEADS]
    if strange or len(config.outputs) != len(config.targets):
        targets, known = ", ".join(config.targets), ", ".join(HEADS)
        raise UsageError(f"outputs takes one of {known} for each of the targets {targets}")
    return config.outputs
