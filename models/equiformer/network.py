"""Equiformer (Liao and Smidt 2023): graph attention with nonlinear messages, even irreps.

    Y_l     of x_j - x_i, |Y_l|^2 = 2 l + 1                                geometry, nn/harmonics.py
    e_k(r)  learned Gaussians of r / r_c, or Bessel functions              radial.py
    Rad(e)  = W silu(LN(L(silu(LN(L(e)))))) + offset                       radial.RadialNetwork
    Lin     out_l = W_l in_l, a bias on l = 0                              so3.EquivariantLinear
    DTP     (t x Y)_l3 = w sqrt(2 l3 + 1) C t_l1 Y_l2, stacked by l3       tensor_product.py
    Gate    1.679 silu(scalars), l > 0 times 1.847 sigmoid(gate)           so3.gated
    EqLN    l = 0 centred; each l / root mean square, scaled; l = 0 + b    so3.EquivariantLayerNorm
    h       = Lin(one-hot) + sum_j Lin(DTP(Lin(1), Y; Rad e)) / sqrt(degree)    DegreeEmbedding
    y       = EqLN(h);  M = Lin y_j + Lin y_i;  D = DTP(M, Y; Rad(e))      Attention.formula
    b       = a . f(Lin_alpha D_0)                                         attention_logits
              f(x) = 1.531 (0.6 x + 0.4 x (2 sigmoid(x) - 1))
    v       = Lin(DTP'(Gate(Lin D), Y)), weights that all edges share      attention.Values
    a_ij    = softmax_j b_ij;   h += Lin_proj sum_j a_ij v_ij              attention.attended
    h       += Lin(Gate(Lin(EqLN h)))                                      so3.FeedForward
    last    feature = shortcut(h) + Lin(Gate(Lin(EqLN h)))                 Readout.feature
    out     = sum_i Lin(1.679 silu(Lin(EqLN feature_i))) / sqrt(atoms)     readout.ScalarHead
    vector  sum_i (q_i (x_i - c) + u_i) / sqrt(atoms), ours                readout.VectorHead
    pi      x~_i += w (Gate(Lin EqLN h_i) x Lin EqLN h_i)_1, ours          displacement.py

All irreps are even, so that vectors and pseudovectors are one and the same: the network follows
rotations, translations and permutations, and not mirror images. There is no envelope at the
cutoff; both as published. What the published code computes and nobody reads is left out: products
of the degree embedding's zeros, and what no head reads of l > 0 behind the last attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from neupol_cli.models.base import Arguments, Backbone, PropertyConfig
from neupol_cli.models.equiformer.attention import Values, attended, attention_logits
from neupol_cli.models.equiformer.config import EquiformerConfig, check
from neupol_cli.models.equiformer.displacement import Displacement
from neupol_cli.models.equiformer.geometry import EdgeFeatures, Geometry
from neupol_cli.models.equiformer.kernels import tiles
from neupol_cli.models.equiformer.kernels.frame_instructions import FrameInstructions
from neupol_cli.models.equiformer.kernels.frame_messages import MessageInputs
from neupol_cli.models.equiformer.kernels.value_matrices import value_bias, value_matrices
from neupol_cli.models.equiformer.published import published as translated
from neupol_cli.models.equiformer.radial import RadialNetwork
from neupol_cli.models.equiformer.readout import HEADS, Readout, degrees_read
from neupol_cli.models.equiformer.so3 import (
    EquivariantLayerNorm,
    EquivariantLinear,
    FeedForward,
    Muls,
    add,
    gate_inputs,
    gated,
    multiplicities,
    packed,
    unpacked,
)
from neupol_cli.models.equiformer.tensor_product import TensorProduct, paths_read
from neupol_cli.models.nn.graph import Edges, Graph, counted, segment_sum


class DegreeEmbedding(nn.Module):
    """What an atom's neighbours are like, whichever their elements are.

    The published tensor product of a constant with Y has one path a degree, 0 x l -> l. Lin_proj,
    which all edges share, follows the sum over neighbours; each of them brings its bias once.
    """

    def __init__(self, config: EquiformerConfig, muls: Muls, basis: int) -> None:
        super().__init__()
        channels = muls[0]
        self.scale = config.average_degree**-0.5
        self.constant = nn.Parameter(torch.randn(channels))  # Lin(1), its bias in it
        self.radial = RadialNetwork(basis, config.radial, channels * len(muls))
        fans = tuple(TensorProduct(muls, paths_read(muls, len(muls))).widths)
        self.proj = EquivariantLinear((channels,) * len(muls), muls, fans=fans)

    def forward(self, edges: EdgeFeatures, points: int) -> list[Tensor]:
        """(P, 2l + 1, mul) a degree."""
        return self.embedded(*self.sums(edges, points))

    def twice(self, edges: EdgeFeatures, own: EdgeFeatures, atoms: int) -> list[Tensor]:
        """(2A, 2l + 1, mul) of atoms and the points that lie on them.

        Args:
            edges: among the A atoms.
            own: one edge of no length.
            atoms: A.
        """
        sums, counts = self.sums(edges, atoms)
        one, count = self.sums(own, 1)
        both = [2 * a + b for a, b in zip(sums, one, strict=True)]
        return [torch.cat((h, h)) for h in self.embedded(both, 2 * counts + count)]

    def sums(self, edges: EdgeFeatures, points: int) -> tuple[list[Tensor], Tensor]:
        """For each l (P, 2l + 1, mul) sums over neighbours before Lin_proj; (P,) neighbours."""
        weights = self.radial(edges.basis).index_select(0, edges.rows)  # (E, path weights)
        sums = []
        for degree, weight in enumerate(weights.split(self.constant.shape[0], 1)):
            y = edges.harmonics[:, degree**2 : (degree + 1) ** 2, None]  # (E, 2l + 1, 1)
            message = y * (self.constant * weight)[:, None]
            sums.append(segment_sum(message, edges.receivers, points) * self.scale)
        return sums, counted(edges.receivers, points)

    def embedded(self, sums: list[Tensor], counts: Tensor) -> list[Tensor]:
        """What :meth:`sums` answers -> (P, 2l + 1, mul) a degree."""
        scalars, *rest = self.proj(sums)
        count = counts[:, None, None].to(scalars)
        bias = self.proj.bias if self.proj.bias is not None else 0.0
        return [scalars + bias * (count * self.scale - 1), *rest]


class Attention(nn.Module):
    """One step of graph attention.

    Args:
        config: sizes.
        muls: of the state.
        basis: size of the radial basis.
        degrees: how many degrees of the result somebody reads.
    """

    def __init__(self, config: EquiformerConfig, muls: Muls, basis: int, degrees: int) -> None:
        super().__init__()
        head = multiplicities(config.head_irreps)
        self.muls, self.drop = muls, config.alpha_drop
        self.product = TensorProduct(muls, paths_read(muls, degrees))
        self.instructions = FrameInstructions(muls, degrees)
        self.source = EquivariantLinear(muls, muls)
        self.target = EquivariantLinear(muls, muls, bias=False)
        self.radial = RadialNetwork(basis, config.radial, self.product.weights)
        widths = tuple(self.product.widths)
        fans = tuple(TensorProduct(muls, paths_read(muls, len(muls))).widths)
        self.lin = EquivariantLinear(widths, gate_inputs(muls), fans=fans)
        self.alpha = EquivariantLinear(widths[:1], (head[0] * config.heads,))
        reach = (6 / (config.heads + head[0])) ** 0.5  # glorot
        self.alpha_dot = nn.Parameter(torch.empty(config.heads, head[0]).uniform_(-reach, reach))
        self.outs = tuple(mul * config.heads for mul in head[:degrees])
        self.values = Values(muls, self.outs)
        self.proj = EquivariantLinear(self.outs, muls[:degrees])

    def forward(self, y: Sequence[Tensor], edges: EdgeFeatures) -> list[Tensor]:
        """(P, 2l + 1, mul) normalised states -> that many degrees of the change."""
        sources, targets = self.source(y), self.target(y)
        logits, *values = self.messages(sources, targets, edges)
        drop = self.drop if self.training else 0.0
        return self.proj(attended(logits, values, edges.receivers, y[0].shape[0], drop))

    def messages(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], edges: EdgeFeatures
    ) -> list[Tensor]:
        """What :meth:`formula` answers, from kernels where there are frames."""
        if edges.frames is None:
            return self.formula(sources, targets, edges)
        inputs = self._inputs(sources, targets, edges.basis[: len(edges.frames.half.receivers)])
        apart = tiles.messages(inputs, edges.frames, self.instructions, self.outs)
        if edges.touching is None:
            return apart
        touching = self.formula(sources, targets, edges.touching)
        return [torch.cat(column) for column in zip(apart, touching, strict=True)]

    def formula(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], edges: EdgeFeatures
    ) -> list[Tensor]:
        """The messages as published.

        Args:
            sources, targets: (P, 2l + 1, mul) a degree, Lin y of senders and of receivers.
            edges: E of them.

        Returns:
            (E, heads) logits, then for each of these l (E, 2l + 1, heads x head) values.
        """
        merged = [  # M, (E, 2l + 1, mul) a degree
            source.index_select(0, edges.senders) + target.index_select(0, edges.receivers)
            for source, target in zip(sources, targets, strict=True)
        ]
        weights = self.radial(edges.basis).index_select(0, edges.rows)  # (E, path weights)
        depthwise = self.product(merged, edges.harmonics, weights)  # D
        (alpha,) = self.alpha(depthwise[:1])  # (E, 1, heads x a)
        logits = attention_logits(alpha.squeeze(1), self.alpha_dot)
        opened = gated(self.lin(depthwise), self.muls)  # G
        return [logits, *self.values(opened, edges.harmonics)]

    def _inputs(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], basis: Tensor
    ) -> MessageInputs:
        scalars = torch.cat((self.lin.weights[0], self.alpha.weights[0]))
        return MessageInputs(
            torch.cat([part.flatten(1) for part in sources], 1),
            torch.cat([part.flatten(1) for part in targets], 1),
            self.radial.hidden(basis),
            self.radial.last,
            self.radial.offset,
            torch.cat((self.lin.bias, self.alpha.bias)),  # type: ignore[arg-type]
            self.alpha_dot,
            value_bias(self.values),
            self.instructions.matrices([scalars, *self.lin.weights[1:]]),
            value_matrices(self.values),
        )


class Block(nn.Module):
    """Attention, then the feed-forward network."""

    def __init__(self, config: EquiformerConfig, geometry: Geometry) -> None:
        super().__init__()
        muls = multiplicities(config.irreps)
        self.muls, self.geometry = muls, (geometry,)  # in a tuple: its weights are the backbone's
        self.norm_1 = EquivariantLayerNorm(muls, config.epsilon)
        self.attention = Attention(config, muls, geometry.size, len(muls))
        self.norm_2 = EquivariantLayerNorm(muls, config.epsilon)
        self.ffn = FeedForward(muls, multiplicities(config.mlp_irreps), muls)

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        """(P, dim) -> (P, dim)."""
        h = unpacked(state, self.muls)
        h = add(h, self.attention(self.norm_1(h), self.geometry[0](edges)))
        return packed(add(h, self.ffn(self.norm_2(h))))


class LastBlock(nn.Module):
    """The last attention, for the degrees that the readout reads; the others stay as they came.

    Its feed-forward network, which leads out of the state, is the readout's.

    Args:
        config: sizes.
        geometry: of the edges.
        degrees: how many degrees the readout reads.
    """

    def __init__(self, config: EquiformerConfig, geometry: Geometry, degrees: int) -> None:
        super().__init__()
        muls = multiplicities(config.irreps)
        self.muls, self.geometry, self.degrees = muls, (geometry,), degrees
        self.norm_1 = EquivariantLayerNorm(muls, config.epsilon)
        self.attention = Attention(config, muls, geometry.size, degrees)

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        """(P, dim) -> (P, dim)."""
        h = unpacked(state, self.muls)
        change = self.attention(self.norm_1(h), self.geometry[0](edges))
        read = packed(add(h[: self.degrees], change))
        return torch.cat((read, state[:, read.shape[1] :]), 1)[edges.first_receiver :]


class Equiformer(Backbone):
    """The backbone; its state has the irreps of the configuration."""

    Config = EquiformerConfig
    by_element: ClassVar[Mapping[str, int]] = {"embedding": 0}
    config: EquiformerConfig

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        return tuple(HEADS)

    def __init__(self, config: EquiformerConfig) -> None:
        super().__init__(config)
        check(config)
        self.muls = multiplicities(config.irreps)
        self.irreps, self.cutoff = config.irreps, config.cutoff
        rows = config.points_per_atom * len(config.species)
        self.embedding = nn.Parameter(torch.randn(rows, self.muls[0]))
        self.embedding_bias = nn.Parameter(torch.zeros(self.muls[0]))
        self.geometry = Geometry(config, len(self.muls) - 1)
        self.degree = DegreeEmbedding(config, self.muls, self.geometry.size)
        blocks: list[nn.Module] = [Block(config, self.geometry) for _ in range(config.layers - 1)]
        last = LastBlock(config, self.geometry, degrees_read(self.readouts))
        self.layers = nn.ModuleList([*blocks, last])
        self.head = Readout(config, self.readouts)

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        atoms = self.embedding.index_select(0, types) + self.embedding_bias
        scalars, *rest = self._degree(edges, types.shape[0])
        return packed([atoms[:, None] + scalars, *rest])

    def _degree(self, edges: Edges, points: int) -> list[Tensor]:
        if edges.coinciding is None:
            return self.degree(self.geometry(edges), points)
        own = self.geometry.formula(edges.of_no_length())
        return self.degree.twice(self.geometry(edges.coinciding), own, points // 2)

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        return self.head(unpacked(state, self.muls), graph)

    def projection(self) -> nn.Module:
        return Displacement(self.muls, self.config.epsilon)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[EquiformerConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return translated(weights, config)
