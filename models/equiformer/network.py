"""Equiformer (Liao and Smidt 2023): graph attention with nonlinear messages, even irreps.

    h = onehot + sum_j Lin(Lin(1) x Y(n_ij); w(r_ij)) / sqrt(average degree)
    y = EqLN(h);   M_ij = Lin y_j + Lin y_i;   D = M x Y(n_ij), weighted by w(r_ij)
    a_ij = softmax_j a . f(Lin_alpha D_0);     h += Lin_proj sum_j a_ij Lin(Gate(Lin D) x Y(n_ij))
    h += Lin Gate(Lin EqLN(h))                 the last block goes to l = 0 alone
    out = sum_i Lin silu(Lin EqLN(h_i)) / sqrt(average number of atoms)

All irreps are even, so that vectors and pseudovectors are one and the same: the network follows
rotations, translations and permutations, and not mirror images. There is no envelope at the
cutoff; both as published. What the published code computes and nobody reads is left out: products
of the degree embedding's zeros, and l > 0 behind the last attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.distance import Range
from neupol_cli.models.equiformer.attention import Values, attended
from neupol_cli.models.equiformer.edge_frame import Frames, Pairs, paths
from neupol_cli.models.equiformer.kernels.tiles import messages
from neupol_cli.models.equiformer.messages import Parts, Wiring
from neupol_cli.models.equiformer.radial import RadialNetwork, radial_basis
from neupol_cli.models.equiformer.so3 import (
    SILU,
    EquivariantLayerNorm,
    EquivariantLinear,
    Muls,
    gate_inputs,
    gated,
    multiplicities,
    packed,
    unpacked,
)
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.harmonics import Constant
from neupol_cli.models.nn.linear import Linear, product
from neupol_cli.models.property import Backbone, PropertyConfig


@dataclass(frozen=True)
class EquiformerConfig(PropertyConfig):
    """Equiformer's sizes; the defaults are the published QM9 network.

    Attributes:
        irreps: of the state; even, l ascending from 0.
        layers: attention blocks.
        cutoff: Angstrom.
        heads, head_irreps: attention heads, and the values of one.
        mlp_irreps: the hidden layer of a block's feed-forward network.
        feature: scalars that the readout sees.
        encoding: how a distance enters: ``learned-gaussian``, ``learned-bessel`` (published for
            energies, r2, zpve) or any of models/distance.py.
        encoding_size, encoding_bins: its resolution.
        radial: hidden widths of the networks behind it.
        alpha_drop: dropout of attention weights, in training only.
        average_degree, average_nodes: neighbours of an atom and atoms of a molecule in QM9.
    """

    irreps: str = "128x0e+64x1e+32x2e"
    layers: int = 6
    cutoff: float = 5.0
    heads: int = 4
    head_irreps: str = "32x0e+16x1e+8x2e"
    mlp_irreps: str = "384x0e+192x1e+96x2e"
    feature: int = 512
    encoding: str = "learned-gaussian"
    encoding_size: int = 128
    encoding_bins: int = 64
    radial: tuple[int, ...] = (64, 64)
    alpha_drop: float = 0.2
    average_degree: float = 15.57930850982666
    average_nodes: float = 18.03065905448718


def check(config: EquiformerConfig) -> None:
    """Refuses sizes that make no network.

    Raises:
        UsageError: saying which.
    """
    degrees = len(multiplicities(config.irreps))
    if degrees < 2:
        raise UsageError(f"irreps {config.irreps!r} have no vectors; add some, as in 16x0e+8x1e")
    for name in ("head_irreps", "mlp_irreps"):
        text = getattr(config, name)
        if len(multiplicities(text)) != degrees:
            raise UsageError(f"{name} {text!r} must go to the same l as irreps {config.irreps!r}")
    if config.layers < 1 or config.heads < 1:
        raise UsageError(
            f"got {config.layers} layers of {config.heads} heads; both must be positive"
        )


class Geometry(nn.Module):
    """Frames of edges and the basis of their lengths: what all layers read, computed once."""

    def __init__(self, config: EquiformerConfig, lmax: int) -> None:
        super().__init__()
        self.frames = Frames(lmax)
        scope = Range(config.encoding_size, config.cutoff, config.encoding_bins)
        self.basis = radial_basis(config.encoding, scope)
        self.size = int(self.basis.size)  # type: ignore[arg-type]

    def forward(self, edges: Any) -> tuple[Pairs, Tensor]:
        """The pairs of these edges, and (H, size) the basis of their lengths."""
        pairs = self.frames(edges)
        if "equiformer basis" not in edges.shared:
            edges.shared["equiformer basis"] = self.basis(pairs.half)
        return pairs, edges.shared["equiformer basis"]


class DegreeEmbedding(nn.Module):
    """What an atom's neighbours are like, whichever their elements are.

    The published tensor product of a constant with Y has one path a degree, 0 x l -> l. The
    weights' last map commutes with the sum over neighbours, so that a sum of Y x (hidden radial
    features) is all that is done for an edge.
    """

    def __init__(self, config: EquiformerConfig, muls: Muls, basis: int) -> None:
        super().__init__()
        channels = muls[0]
        self.scale = config.average_degree**-0.5
        self.constant = nn.Parameter(torch.randn(channels))  # Lin(1), its bias in it
        self.radial = RadialNetwork(basis, config.radial, channels * len(muls))
        fans = tuple(Wiring(muls, len(muls)).widths)
        self.proj = EquivariantLinear((channels,) * len(muls), muls, fans=fans)

    def forward(self, pairs: Pairs, basis: Tensor, points: int) -> list[Tensor]:
        """(P, 2l + 1, mul) a degree."""
        hidden = functional.pad(self.radial.hidden(basis), (0, 1), value=1.0)  # and the offset's 1
        both = hidden.index_select(0, pairs.halves)  # (E, k + 1)
        sums = [
            segment_sum(harmonic[:, None] * both, pairs.receivers, points)
            for harmonic in pairs.harmonics.unbind(1)
        ]
        last = torch.cat((self.radial.last, self.radial.offset[:, None]), 1)  # (weights, k + 1)
        found = []
        for degree, matrix in enumerate(last.split(self.constant.shape[0])):
            block = torch.stack(sums[degree**2 : (degree + 1) ** 2], 1)  # (P, 2l + 1, k + 1)
            found.append(product(block, matrix) * (self.constant * self.scale))
        scalars, *rest = self.proj(found)
        count = sums[0][:, None, -1:]  # (P, 1, 1) neighbours: each brings the bias once
        bias = self.proj.bias if self.proj.bias is not None else 0.0
        return [scalars + bias * (count * self.scale - 1), *rest]


class Attention(nn.Module):
    """One step of graph attention.

    Args:
        config: sizes.
        muls: of the state.
        basis: size of the radial basis.
        kept: how many degrees of the result somebody reads.
    """

    def __init__(self, config: EquiformerConfig, muls: Muls, basis: int, kept: int) -> None:
        super().__init__()
        head = multiplicities(config.head_irreps)
        self.muls, self.drop = muls, config.alpha_drop
        self.wiring = Wiring(muls, kept)
        self.source = EquivariantLinear(muls, muls)
        self.target = EquivariantLinear(muls, muls, bias=False)
        self.radial = RadialNetwork(basis, config.radial, self.wiring.weights)
        widths = tuple(self.wiring.widths)
        fans = tuple(Wiring(muls, len(muls)).widths)
        self.lin = EquivariantLinear(widths, gate_inputs(muls), fans=fans)
        self.alpha = EquivariantLinear(widths[:1], (head[0] * config.heads,))
        reach = (6 / (config.heads + head[0])) ** 0.5  # glorot
        self.alpha_dot = nn.Parameter(torch.empty(config.heads, head[0]).uniform_(-reach, reach))
        self.outs = tuple(mul * config.heads for mul in head[:kept])
        self.values = Values(muls, self.outs)
        self.proj = EquivariantLinear(self.outs, muls[:kept])

    def forward(self, y: Sequence[Tensor], pairs: Pairs, basis: Tensor) -> list[Tensor]:
        """(P, 2l + 1, mul) normalised states, (H, size) radial basis -> the kept degrees."""
        logits, *values = messages(self._parts(y, basis), pairs, self.wiring, self.outs)
        drop = self.drop if self.training else 0.0
        return self.proj(attended(logits, values, pairs.receivers, y[0].shape[0], drop))

    def _parts(self, y: Sequence[Tensor], basis: Tensor) -> Parts:
        scalars = torch.cat((self.lin.weights[0], self.alpha.weights[0]))
        return Parts(
            torch.cat([each.flatten(1) for each in self.source(y)], 1),
            torch.cat([each.flatten(1) for each in self.target(y)], 1),
            self.radial.hidden(basis),
            self.radial.last,
            self.radial.offset,
            torch.cat((self.lin.bias, self.alpha.bias)),  # type: ignore[arg-type]
            self.alpha_dot,
            self.values.bias(),
            self.wiring.matrices([scalars, *self.lin.weights[1:]]),
            *self.values.matrices(),
        )


class FeedForward(nn.Module):
    """Lin Gate(Lin x) from one set of irreps to another, without what the latter does not read."""

    def __init__(self, muls: Muls, hidden: Muls, outs: Muls) -> None:
        super().__init__()
        self.hidden = hidden[: len(outs)]
        self.first = EquivariantLinear(muls[: len(outs)], gate_inputs(self.hidden))
        self.second = EquivariantLinear(self.hidden, outs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.second(gated(self.first(features), self.hidden))


class Block(nn.Module):
    """Attention, then the feed-forward network."""

    def __init__(self, config: EquiformerConfig, geometry: Geometry) -> None:
        super().__init__()
        muls = multiplicities(config.irreps)
        self.muls, self.geometry = muls, (geometry,)  # in a tuple: its weights are the backbone's
        self.norm_1 = EquivariantLayerNorm(muls)
        self.attention = Attention(config, muls, geometry.size, len(muls))
        self.norm_2 = EquivariantLayerNorm(muls)
        self.ffn = FeedForward(muls, multiplicities(config.mlp_irreps), muls)

    def forward(self, state: Tensor, edges: Any) -> Tensor:
        """(P, dim) -> (P, dim)."""
        h = unpacked(state, self.muls)
        pairs, basis = self.geometry[0](edges)
        h = add(h, self.attention(self.norm_1(h), pairs, basis))
        return packed(add(h, self.ffn(self.norm_2(h))))


class LastBlock(nn.Module):
    """The last attention, for the scalars alone; l > 0 stays as it came, since nobody reads it.

    Its feed-forward network, which leads out of the state, is the readout's.
    """

    def __init__(self, config: EquiformerConfig, geometry: Geometry) -> None:
        super().__init__()
        muls = multiplicities(config.irreps)
        self.muls, self.geometry = muls, (geometry,)
        self.norm_1 = EquivariantLayerNorm(muls)
        self.attention = Attention(config, muls, geometry.size, 1)

    def forward(self, state: Tensor, edges: Any) -> Tensor:
        """(P, dim) -> (P, dim)."""
        h = unpacked(state, self.muls)
        pairs, basis = self.geometry[0](edges)
        (change,) = self.attention(self.norm_1(h), pairs, basis)
        scalars = self.muls[0]
        return torch.cat((state[:, :scalars] + change.squeeze(1), state[:, scalars:]), 1)


def add(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """a + b, degree by degree."""
    return [x + y for x, y in zip(a, b, strict=True)]


class Readout(nn.Module):
    """The last block's step to ``feature`` scalars, shared by all targets, and a head for each."""

    def __init__(self, config: EquiformerConfig) -> None:
        super().__init__()
        scalars = multiplicities(config.irreps)[:1]
        hidden = multiplicities(config.mlp_irreps)[:1]
        feature = (config.feature,)
        self.scale = config.average_nodes**-0.5
        self.norm_2 = EquivariantLayerNorm(scalars)
        self.ffn = FeedForward(scalars, hidden, feature)
        self.shortcut = EquivariantLinear(scalars, feature)
        self.norm = EquivariantLayerNorm(feature)
        self.heads = nn.ModuleList(Head(config.feature) for _ in config.targets)

    def feature(self, scalars: Tensor) -> Tensor:
        """(A, mul of 0e) -> (A, feature)."""
        h = [scalars[:, None]]
        return add(self.shortcut(h), self.ffn(self.norm_2(h)))[0].squeeze(1)

    def forward(self, scalars: Tensor, batch: Tensor, size: int) -> Tensor:
        """(A, mul of 0e) -> (size, targets)."""
        (x,) = self.norm([self.feature(scalars)[:, None]])
        each = torch.cat([head(x.squeeze(1)) for head in self.heads], 1)  # (A, targets)
        return segment_sum(each, batch, size) * self.scale


class Head(nn.Module):
    """One target: Lin silu(Lin x), the silu scaled as e3nn scales it."""

    def __init__(self, feature: int) -> None:
        super().__init__()
        self.first, self.second = scaled_linear(feature, feature), scaled_linear(feature, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(A, feature) -> (A, 1)."""
        return self.second(SILU * functional.silu(self.first(x)))


def scaled_linear(ins: int, outs: int) -> Linear:
    """Weights N(0, 1/in), no bias at the start."""
    linear = Linear(ins, outs)
    nn.init.normal_(linear.weight, std=ins**-0.5)
    nn.init.zeros_(linear.bias)
    return linear


class Displacement(nn.Module):
    """pi of Neural Polarization: a tensor product of two linear maps of the state, to one vector.

        pi(v) = sum over paths and channels of w (Gate(Lin EqLN v) x Lin EqLN v) of l = 1

    The paper asks for a shallow network on a tensor product with one l = 1 output. Sixteen channels
    a degree, the gate, and the start at a thousandth of unit size are choices made here.
    """

    channels = 16

    def __init__(self, muls: Muls) -> None:
        super().__init__()
        hidden = (self.channels,) * len(muls)
        self.muls, self.hidden = muls, hidden
        self.norm = EquivariantLayerNorm(muls)
        self.left = EquivariantLinear(muls, gate_inputs(hidden))
        self.right = EquivariantLinear(muls, hidden)
        self.paths = [path for path in paths(len(muls) - 1) if path.l3 == 1]
        count = len(self.paths) * self.channels
        self.mix = nn.Parameter(1e-3 * count**-0.5 * torch.randn(len(self.paths), self.channels))
        self.symbols = [Constant(path.symbol()) for path in self.paths]

    def forward(self, state: Tensor) -> Tensor:
        """(A, dim) -> (A, 3) Angstrom."""
        y = self.norm(unpacked(state, self.muls))
        left, right = gated(self.left(y), self.hidden), self.right(y)
        moved = state.new_zeros(state.shape[0], 3)
        for path, symbol, weight in zip(self.paths, self.symbols, self.mix, strict=True):
            first = left[path.l1] * weight  # (A, 2 l1 + 1, channels)
            outer = torch.bmm(first, right[path.l2].transpose(1, 2))  # (A, 2 l1 + 1, 2 l2 + 1)
            moved = moved + outer.flatten(1) @ symbol.like(state).flatten(0, 1)
        return moved


class Equiformer(Backbone):
    """The backbone; its state has the irreps of the configuration."""

    Config = EquiformerConfig

    def __init__(self, config: EquiformerConfig) -> None:
        super().__init__(config)
        check(config)
        self.muls = multiplicities(config.irreps)
        self.irreps, self.cutoff = config.irreps, config.cutoff
        rows = config.kinds * len(config.species)
        self.embedding = nn.Parameter(torch.randn(rows, self.muls[0]))
        self.embedding_bias = nn.Parameter(torch.zeros(self.muls[0]))
        self.geometry = Geometry(config, len(self.muls) - 1)
        self.degree = DegreeEmbedding(config, self.muls, self.geometry.size)
        blocks: list[nn.Module] = [Block(config, self.geometry) for _ in range(config.layers - 1)]
        self.layers = nn.ModuleList([*blocks, LastBlock(config, self.geometry)])
        self.head = Readout(config)

    def embed(self, types: Tensor, edges: Any) -> Tensor:
        atoms = self.embedding.index_select(0, types) + self.embedding_bias
        pairs, basis = self.geometry(edges)
        scalars, *rest = self.degree(pairs, basis, types.shape[0])
        return packed([atoms[:, None] + scalars, *rest])

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        return self.head(state[:, : self.muls[0]], graph.batch, graph.size)

    def projection(self) -> nn.Module:
        return Displacement(self.muls)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[EquiformerConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        from neupol_cli.models.equiformer.published import published

        return published(weights, config)
