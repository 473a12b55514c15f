"""DimeNet++ (Gasteiger, Giri, Margraf and Günnemann 2020), as coded in PyTorch Geometric.

    m_ji  = silu(L[h_i, h_j, silu(L rbf_ji)])              h an embedding of the element
    t_kj  = silu(W (silu(L m_kj) * W W rbf_kj))
    t_ji  = sum_k t_kj * W W sbf_kji
    m_ji <- m_ji + silu(L Res(silu(L m_ji) + silu(W t_ji))), then Res again
    P_i   = W (silu L)^3 W sum_j (W rbf_ji) * m_ji         before the first block and after each
    y     = sum_i sum_blocks P_i

i receives from j, and j from k. What is computed here in another order, exactly:

- sbf_ln = R_ln(r_kj) F_l(angle_kji) is a product, so its radial half is projected an edge, not a
  triplet; the sum over k and l is then a matrix product of small dense blocks, one an atom, whose
  left factors F_l all blocks of layers share (triplets.py).
- L[h_i, h_j, e] is split: the first two parts are rows of a table, one an element.
- Two linear maps without bias behind one another are multiplied before they meet the data.

The published code keeps at most 32 neighbours an atom; here all within the cutoff count. With a
``learned`` or ``mlp`` encoding, R becomes one encoding of the distance (shared by all l) under the
same envelope, and F one of the angle (Gao et al. 2022); the other encodings keep Legendre's F.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.dimenet.angle import angular
from neupol_cli.models.dimenet.spherical_basis import SphericalBessel
from neupol_cli.models.dimenet.triplets import Triplets
from neupol_cli.models.distance import Range, encoding
from neupol_cli.models.nn.activation import activated
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, product
from neupol_cli.models.property import Backbone, PropertyConfig


@dataclass(frozen=True)
class DimeNetConfig(PropertyConfig):
    """DimeNet++'s sizes; the defaults are the published QM9 network.

    Attributes:
        hidden: width of an edge's message.
        layers: interaction blocks.
        triplet: width of a message while it passes to the next edge.
        basis: width between the two projections of a basis.
        output: width of the output blocks.
        spherical, radial: how many functions of an angle, and of a distance for each of them.
        cutoff: Angstrom.
        envelope: exponent of the envelope that takes the bases to zero at the cutoff.
        before_skip, after_skip, output_layers: how many residual and output layers.
        encoding: ``bessel`` is DimeNet++'s own; others as in models/distance.py.
        encoding_size, encoding_bins: resolution of these others.
        output_start: ``zeros`` (published for mu, homo, lumo, zpve) or ``glorot`` (the others).
    """

    hidden: int = 128
    layers: int = 4
    triplet: int = 64
    basis: int = 8
    output: int = 256
    spherical: int = 7
    radial: int = 6
    cutoff: float = 5.0
    envelope: int = 5
    before_skip: int = 1
    after_skip: int = 2
    output_layers: int = 3
    encoding: str = "bessel"
    encoding_size: int = 16
    encoding_bins: int = 64
    output_start: str = "zeros"


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


def envelope(x: Tensor, exponent: int) -> Tensor:
    """env(x) = 1/x - (p+1)(p+2)/2 x^(p-1) + p(p+2) x^p - p(p+1)/2 x^(p+1), p = exponent + 1.

    (E,) -> (E,); zero, with two derivatives, at x = 1 and beyond.
    """
    p = exponent + 1
    inner = p * (p + 2) - p * (p + 1) / 2 * x
    inner = x ** (p - 1) * (x * inner - (p + 1) * (p + 2) / 2)
    return (1 / x + inner) * (x < 1)


class RadialBasis(nn.Module):
    """DimeNet++'s own functions of a distance: rbf_n = env(x) sin(f_n x), f_n learned from n pi."""

    decays = False

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.size = config.radial
        self.cutoff = config.cutoff
        self.frequencies = nn.Parameter(math.pi * torch.arange(1.0, config.radial + 1))
        self.spherical = SphericalBessel(config.spherical, config.radial)

    def forward(self, edges: Edges, inside: Tensor) -> tuple[Tensor, Tensor]:
        """(E, N) rbf and (E, L N) radial half of sbf; ``inside`` is (E, 1) env(x)."""
        x = edges.lengths / self.cutoff
        return inside * torch.sin(self.frequencies * x[:, None]), inside * self.spherical(x)


class EncodedBasis(nn.Module):
    """Another encoding under the same envelope; the radial half of sbf is the same for all l."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        scope = Range(config.encoding_size, config.cutoff, config.encoding_bins)
        self.spherical = config.spherical
        self.along = encoding(config.encoding, scope)
        self.across = encoding(config.encoding, scope)
        self.size = int(self.along.size)  # type: ignore[arg-type]

    def forward(self, edges: Edges, inside: Tensor) -> tuple[Tensor, Tensor]:
        across = inside * self.across(edges)
        return inside * self.along(edges), across.repeat(1, self.spherical)


class Basis(NamedTuple):
    """What all blocks of one pass share; E edges, S slots, N and L functions.

    radial: (E, N); arriving: (S, L N) radial half of sbf at the slots of edges k -> j;
    angular: for each fan (a, n, n L) [j, i, (k, l)], zero where k is i.
    """

    triplets: Triplets
    radial: Tensor
    arriving: Tensor
    angular: list[Tensor]


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
        to_receiver, to_sender, to_radial = self.mix.weight.split(self.hidden, 1)
        received = product(self.species, to_receiver, self.mix.bias)  # a row an element
        sent = product(self.species, to_sender)
        m = product(activated(self.radial, radial), to_radial)
        m = m + received.index_select(0, types.index_select(0, edges.receivers))
        return functional.silu(m + sent.index_select(0, types.index_select(0, edges.senders)))


class Interaction(nn.Module):
    """One block: (E, H) messages -> (E, H)."""

    def __init__(self, config: DimeNetConfig, radial: int) -> None:
        super().__init__()
        hidden, triplet, basis = config.hidden, config.triplet, config.basis
        self.spherical = config.spherical
        self.radial_in = dense(radial, basis, False)
        self.radial_out = dense(basis, hidden, False)
        self.angular_in = dense(config.spherical * radial, basis, False)
        self.angular_out = dense(basis, triplet, False)
        self.own, self.passed = dense(hidden, hidden), dense(hidden, hidden)
        self.down, self.up = dense(hidden, triplet, False), dense(triplet, hidden, False)
        self.before = nn.Sequential(*(Residual(hidden) for _ in range(config.before_skip)))
        self.skip = dense(hidden, hidden)
        self.after = nn.Sequential(*(Residual(hidden) for _ in range(config.after_skip)))

    def forward(self, m: Tensor, basis: Basis) -> Tensor:
        weight = product(self.radial_out.weight, self.radial_in.weight.t())  # (H, N)
        t = activated(self.passed, m) * product(basis.radial, weight)
        t = self._turned(activated(self.down, t), basis)
        g = activated(self.own, m, activated(self.up, t))
        return self.after(activated(self.skip, self.before(g), m))

    def _turned(self, t: Tensor, basis: Basis) -> Tensor:
        """(E, triplet) t_kj -> (E, triplet) sum_k t_kj * W W sbf_kji."""
        triplets = basis.triplets
        weight = self.angular_in.weight  # (b, L N)
        by_order = weight.view(weight.shape[0], self.spherical, -1).unbind(1)
        narrow = product(basis.arriving, torch.block_diag(*by_order))  # (S, L b)
        narrow = narrow.view(triplets.size * self.spherical, weight.shape[0])
        rows = [size * self.spherical for size in triplets.sizes]
        slots = triplets.split(triplets.arriving(t))
        parts = zip(narrow.split(rows), slots, basis.angular, strict=True)
        return triplets.departed(torch.cat([self._summed(*part) for part in parts]))

    def _summed(self, narrow: Tensor, t: Tensor, angular: Tensor) -> Tensor:
        """One fan: (a n L, b) radial halves, (a n, triplet), (a, n, n L) -> (a n, triplet)."""
        wide = product(narrow, self.angular_out.weight)
        width = t.shape[1]
        wide = wide.view(t.shape[0], self.spherical, width) * t[:, None]
        return (angular @ wide.view(*angular.shape[::2], width)).flatten(0, 1)


class Output(nn.Module):
    """(E, H) messages -> (P, T) one number an atom and target."""

    def __init__(self, config: DimeNetConfig, radial: int) -> None:
        super().__init__()
        width = config.output
        self.radial = dense(radial, config.hidden, False)
        self.up = dense(config.hidden, width, False)
        self.layers = nn.ModuleList(dense(width, width) for _ in range(config.output_layers))
        self.heads = dense(width, len(config.targets), False)
        OUTPUT_STARTS[config.output_start](self.heads.weight)

    def forward(self, m: Tensor, radial: Tensor, receivers: Tensor, points: int) -> Tensor:
        h = self.up(segment_sum(self.radial(radial) * m, receivers, points))
        for layer in self.layers:
            h = activated(cast(Linear, layer), h)
        return self.heads(h)


OUTPUT_STARTS = {"zeros": nn.init.zeros_, "glorot": glorot_orthogonal}


class DimeNet(Backbone):
    """The backbone; its state, one number an atom and target, is the sum of its output blocks."""

    Config = DimeNetConfig

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__(config)
        _check(config)
        self.cutoff = config.cutoff
        self.reach, self.exponent = config.cutoff, config.envelope
        self.irreps = f"{len(config.targets)}x0e"
        own = config.encoding == "bessel"
        self.distances = RadialBasis(config) if own else EncodedBasis(config)
        self.angles = angular(config.encoding, config.spherical, config.encoding_bins)
        radial = self.distances.size
        self.embedding = Embedding(config, radial)
        self.layers = nn.ModuleList(Interaction(config, radial) for _ in range(config.layers))
        self.outputs = nn.ModuleList(Output(config, radial) for _ in range(config.layers + 1))

    def forward(self, types: Tensor, edges: Any) -> Tensor:
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
        triplets = Triplets(edges, points)
        along, across = self.distances(edges, inside)
        angular = [
            (self.angles(fan) * fan.distinct[..., None]).flatten(2)  # (a, n, n L)
            for fan in triplets.fans
        ]
        return Basis(triplets, along, triplets.arriving(across), angular)

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        return segment_sum(state, graph.batch, graph.size)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[DimeNetConfig, dict[str, Tensor]]:
        """PyTorch Geometric's weights and arguments -> our configuration and state."""
        from neupol_cli.models.dimenet import published

        return published.translated(weights, config)

    @staticmethod
    def recognise(content: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """A state_dict of PyTorch Geometric's DimeNetPlusPlus and its arguments, or None."""
        from neupol_cli.models.dimenet import published

        return published.recognised(content)


def _check(config: DimeNetConfig) -> None:
    """Refuses what this network cannot be.

    Raises:
        UsageError: polarization, or an unknown start of the output.
    """
    if config.polarization != "off":
        raise UsageError(
            "dimenet keeps its state on edges, not on points, and takes no polarization; "
            "choose egnn, equivariant-transformer or equiformer for it"
        )
    if config.output_start not in OUTPUT_STARTS:
        known = ", ".join(OUTPUT_STARTS)
        raise UsageError(f"output_start is one of {known}, not {config.output_start!r}")
