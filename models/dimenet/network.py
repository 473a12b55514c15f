"""DimeNet++ (Gasteiger, Giri, Margraf and Günnemann 2020), as coded in PyTorch Geometric.

    rbf_n = env(r / c) sin(f_n r / c)                      bases.RadialBasis, bases.envelope
    sbf   = env R_ln(r_kj) F_l(angle_kji)                  bases, angle.py, spherical_basis.py
            angle = atan2(|a x b|, a . b), a = x_i - x_j, b = x_j - x_k    triplets.py
    m_ji  = silu(L[h_i, h_j, silu(L rbf_ji)])              Embedding; h one of the element
    t_kj  = silu(W (silu(L m_kj) * W W rbf_kj))            Interaction
    t_ji  = sum_k t_kj * W W sbf_kji                       TripletBasis.turned
    m_ji <- m_ji + silu(L Res(silu(L m_ji) + silu(W t_ji))), then Res again
    Res   : g + silu(L silu(L g))                          Residual
    P_i   = W (silu L)^3 W sum_j (W rbf_ji) * m_ji         Output, before and after every block
    y     = sum_i sum_blocks P_i                           DimeNet

i receives from j, and j from k; W is without bias. kernels/fans.py sums over k by dense blocks.

The published code keeps at most 32 neighbours an atom; here all within the cutoff count. With a
``learned`` or ``mlp`` encoding, R becomes one encoding of the distance (shared by all l) under the
same envelope, and F one of the angle (Gao et al. 2022); the other encodings keep Legendre's F.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.base import Arguments, Backbone
from neupol_cli.models.dimenet.angle import angular
from neupol_cli.models.dimenet.bases import EncodedBasis, RadialBasis, envelope
from neupol_cli.models.dimenet.config import DimeNetConfig, check
from neupol_cli.models.dimenet.kernels.choice import angular_basis, atom_sums, edgewise
from neupol_cli.models.dimenet.published import recognised, translated
from neupol_cli.models.dimenet.triplets import AngularBasis
from neupol_cli.models.nn.activation import activated
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, product


def glorot_orthogonal(weight: Tensor) -> None:
    """Orthogonal rows or columns, rescaled to a variance of 2 / (fan_in + fan_out), in place."""
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        variance = weight.var() if weight.numel() > 1 else weight.new_ones(())
        weight *= (2 / (sum(weight.shape) * variance)).sqrt()


def dense(inputs: int, outputs: int, bias: bool = True) -> Linear:
    """A Linear that starts as published: glorot-orthogonal, bias zero."""
    layer = Linear(inputs, outputs, bias=bias)
    glorot_orthogonal(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Basis(NamedTuple):
    """What all blocks of one pass share.

    Attributes:
        radial: (E, N) rbf.
        angular: sbf of all triplets.
    """

    radial: Tensor
    angular: AngularBasis


class Residual(nn.Module):
    """g + silu(L silu(L g))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = dense(hidden, hidden), dense(hidden, hidden)

    def forward(self, g: Tensor) -> Tensor:
        return activated(self.second, activated(self.first, g), g)


class Embedding(nn.Module):
    """First messages (E, H), silu(L[h_i, h_j, silu(L rbf)]); torch's own start, as published."""

    def __init__(self, config: DimeNetConfig, radial: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.hidden = hidden
        bound = math.sqrt(3)
        start = torch.empty(len(config.species), hidden).uniform_(-bound, bound)
        self.species = nn.Parameter(start)
        self.radial = Linear(radial, hidden)
        self.mix = Linear(3 * hidden, hidden)

    def forward(self, types: Tensor, edges: Edges, radial: Tensor) -> Tensor:
        """L[h_i, h_j, e] = L_1 h_i + L_2 h_j + L_3 e, the first two a row a pair of elements."""
        to_receiver, to_sender, to_radial = self.mix.weight.split(self.hidden, 1)
        received = product(self.species, to_receiver, self.mix.bias)  # a row an element
        sent = product(self.species, to_sender)
        pairs = (received[:, None] + sent).flatten(0, 1)
        first, second = (types.index_select(0, ends) for ends in (edges.receivers, edges.senders))
        m = product(activated(self.radial, radial), to_radial)
        m = m + pairs.index_select(0, first * len(sent) + second)
        return functional.silu(m, inplace=not torch.is_grad_enabled())


class Interaction(nn.Module):
    """One block: (E, H) messages -> (E, H)."""

    def __init__(self, config: DimeNetConfig, radial: int) -> None:
        super().__init__()
        hidden, triplet, basis = config.hidden, config.triplet, config.basis
        self.radial_in = dense(radial, basis, False)
        self.radial_out = dense(basis, hidden, False)
        self.angular_in = dense(config.spherical * radial, basis, False)
        self.angular_out = dense(basis, triplet, False)
        self.own, self.passed = dense(hidden, hidden), dense(hidden, hidden)
        self.down, self.up = dense(hidden, triplet, False), dense(triplet, hidden, False)
        self.before = nn.Sequential(*(Residual(hidden) for _ in range(config.before_skip)))
        self.skip = dense(hidden, hidden)
        self.after = nn.Sequential(*(Residual(hidden) for _ in range(config.after_skip)))

    def offered(self, m: Tensor, radial: Tensor) -> Tensor:
        """(E, T) silu(W (silu(L m) * W W rbf)), what each edge k -> j has for all j -> i."""
        t = activated(self.passed, m) * self.radial_out(self.radial_in(radial))
        return activated(self.down, t)

    def answered(self, m: Tensor, t: Tensor) -> Tensor:
        """(E, H) the next messages from the last ones and (E, T) what came to each edge."""
        g = activated(self.own, m, activated(self.up, t))
        return self.after(activated(self.skip, self.before(g), m))

    def forward(self, m: Tensor, basis: Basis) -> Tensor:
        dense = edgewise(self, m)
        t = dense.offered(m, basis.radial)
        t = basis.angular.turned(t, self.angular_in.weight, self.angular_out.weight)
        return dense.answered(m, t)


class Output(nn.Module):
    """(E, H) messages -> (P, T) one number an atom and target."""

    def __init__(self, config: DimeNetConfig, radial: int) -> None:
        super().__init__()
        width = config.output
        self.radial = dense(radial, config.hidden, False)
        self.up = dense(config.hidden, width, False)
        self.layers = nn.ModuleList(dense(width, width) for _ in range(config.output_layers))
        self.heads = dense(width, len(config.targets), False)
        if config.output_start == "zeros":
            nn.init.zeros_(self.heads.weight)

    def forward(self, m: Tensor, radial: Tensor, receivers: Tensor, points: int) -> Tensor:
        h = self.up(atom_sums(m, radial, self.radial.weight, receivers, points))
        for layer in self.layers:
            h = activated(cast(Linear, layer), h)
        return self.heads(h)


class DimeNet(Backbone):
    """The backbone; its state, one number an atom and target, is the sum of its output blocks."""

    Config = DimeNetConfig
    by_element: ClassVar[Mapping[str, int]] = {"embedding.species": 0}
    by_target = ("outputs.*.heads.weight",)
    by_ranges = False  # messages are those of edges, and read each other

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__(config)
        check(config)
        self.cutoff = config.cutoff
        self.reach, self.exponent = config.cutoff, config.envelope
        self.triplet = config.triplet
        self.irreps = f"{len(config.targets)}x0e"
        own = config.encoding == "bessel"
        self.distances = RadialBasis(config) if own else EncodedBasis(config)
        self.angles = angular(config)
        radial = self.distances.size
        self.embedding = Embedding(config, radial)
        self.layers = nn.ModuleList(Interaction(config, radial) for _ in range(config.layers))
        self.outputs = nn.ModuleList(Output(config, radial) for _ in range(config.layers + 1))

    def forward(self, types: Tensor, edges: Edges) -> Tensor:
        """(P,) types -> (P, targets) the sum of the output blocks, atom by atom."""
        return torch.stack([out for _, out in self.blocks(types, edges)]).sum(0)

    def blocks(self, types: Tensor, edges: Edges) -> Iterator[tuple[Tensor, Tensor]]:
        """(E, H) messages and (P, targets) output before the first block and after each."""
        points = types.shape[0]
        basis = self.basis(edges, points)
        m = self.embedding(types, edges, basis.radial)
        yield m, self.outputs[0](m, basis.radial, edges.receivers, points)
        for block, output in zip(self.layers, self.outputs[1:], strict=True):
            m = block(m, basis)
            yield m, output(m, basis.radial, edges.receivers, points)

    def basis(self, edges: Edges, points: int) -> Basis:
        """The functions of distances and angles that all blocks read."""
        inside = envelope(edges.lengths / self.reach, self.exponent)[:, None]
        radial, spherical = self.distances(edges, inside)
        return Basis(radial, angular_basis(edges, points, spherical, self.angles, self.triplet))

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        return segment_sum(state, graph.batch, graph.size)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[DimeNetConfig, dict[str, Tensor]]:
        """PyTorch Geometric's weights and arguments -> our configuration and state."""
        return translated(weights, config)

    @classmethod
    def recognise(cls, content: object) -> tuple[Mapping[str, Tensor], Arguments] | None:
        """A state_dict of PyTorch Geometric's DimeNetPlusPlus and its arguments, or None."""
        return recognised(content)
