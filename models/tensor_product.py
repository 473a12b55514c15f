"""ChargE3Net's convolution over atoms (Koker et al., eq. 2) as a few dense products.

Features are dictionaries {(l, p): (A, 2l + 1, channels)} with p = -1 (odd) or 1 (even), in the
order 0o, 0e, 1o, 1e, ... of the published code. A path couples a sender's irrep (l1, p1) with
Y_l2, whose parity is (-1)^l2, to an output irrep (l3, p1 (-1)^l2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neupol_cli.models.graph import segment_sum
from neupol_cli.models.harmonics import Constant, wigner_3j
from neupol_cli.models.linear import product

Irrep = tuple[int, int]
Multiplicities = dict[Irrep, int]
Features = dict[Irrep, Tensor]

EVEN_SCALAR: Irrep = (0, 1)
ODD_SCALAR: Irrep = (0, -1)
# (E f(z)^2)^(-1/2) of each activation over normal z, as e3nn estimates them.
SILU, SIGMOID, TANH = 1.6791767923989418, 1.8467055342154763, 1.5937334472592695


def natural(irrep: Irrep) -> bool:
    """Whether an irrep has the parity of its own spherical harmonic, (-1)^l."""
    return irrep[1] == (-1) ** irrep[0]


def hidden_irreps(mul: int, lmax: int) -> Multiplicities:
    """The published irreps of total size about ``mul``: both parities of l = 0..lmax."""
    return {
        (degree, parity): round(mul / (lmax + 1) / (2 * degree + 1))
        for degree in range(lmax + 1)
        for parity in (-1, 1)
    }


@dataclass(frozen=True)
class Path:
    """One coupling: sender irrep x Y_degree -> irrep."""

    sender: Irrep
    degree: int
    irrep: Irrep


def all_paths(senders: Iterable[Irrep], lmax: int, wanted: Iterable[Irrep]) -> list[Path]:
    """Every coupling to a wanted irrep or to 0e, in the published order."""
    wanted = {*wanted, EVEN_SCALAR}
    return [
        Path((l1, p1), l2, (l3, p1 * (-1) ** l2))
        for l1, p1 in senders
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1)
        if (l3, p1 * (-1) ** l2) in wanted
    ]


def reachable(senders: Iterable[Irrep], lmax: int, hidden: Multiplicities) -> Multiplicities:
    """Those of the hidden irreps that some path leads to (and that have channels)."""
    ends = {path.irrep for path in all_paths(senders, lmax, hidden)}
    return {irrep: mul for irrep, mul in hidden.items() if irrep in ends and mul > 0}


class BlockLinear(nn.Module):
    """An equivariant linear map: one matrix an irrep, in_k W / sqrt(fan in), no bias.

    Weights are (in, out) a block and start as N(0, 1), as e3nn's do.
    """

    def __init__(self, ins: Mapping[Irrep, int], outs: Mapping[Irrep, int]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {name(k): nn.Parameter(torch.randn(ins[k], outs[k])) for k in outs if k in ins}
        )

    def matrix(self, irrep: Irrep) -> Tensor:
        """The map of one irrep with its factor, (in, out)."""
        weight = self.weights[name(irrep)]
        return weight * weight.shape[0] ** -0.5

    def reaches(self, irrep: Irrep) -> bool:
        """Whether this map has an input for an output irrep."""
        return name(irrep) in self.weights

    def forward(self, features: Features) -> Features:
        """{(l, p): (A, 2l + 1, in)} -> {(l, p): (A, 2l + 1, out)}."""
        return {k: product(v, self.matrix(k).t()) for k, v in features.items() if self.reaches(k)}


def name(irrep: Irrep) -> str:
    """An irrep as it is written: 1o, 2e."""
    return f"{irrep[0]}{'e' if irrep[1] == 1 else 'o'}"


class Coupling:
    """All paths from one sender irrep, as one matrix an edge.

    The rows of that matrix are ordered by output irrep, then its component m3, then the path, so
    that what comes out for an irrep is (E, 2 l3 + 1, paths x channels) without a copy.
    """

    def __init__(self, sender: Irrep, paths: list[Path], lmax: int, irreps: list[Irrep]) -> None:
        self.sender = sender
        self.rows = [(k, sum(path.irrep == k for path in paths)) for k in irreps]
        blocks = [
            _stacked([path for path in paths if path.irrep == k], lmax)
            for k, count in self.rows
            if count
        ]
        stacked = torch.cat(blocks, 1)  # ((lmax + 1)^2, rows, 2 l1 + 1)
        self.shape = stacked.shape[1:]
        self.matrix = Constant(stacked.flatten(1))

    def forward(self, harmonics: Tensor, features: Tensor) -> list[Tensor]:
        """(E, (lmax+1)^2), (E, 2 l1 + 1, u) -> for each irrep (E, 2 l3 + 1, paths u)."""
        edges, _, channels = features.shape
        coupled = (harmonics @ self.matrix.like(harmonics)).view(edges, *self.shape)
        sizes = [(2 * irrep[0] + 1) * count for irrep, count in self.rows]
        pieces = torch.bmm(coupled, features).split(sizes, 1)
        return [
            piece.reshape(edges, 2 * irrep[0] + 1, count * channels)
            for piece, (irrep, count) in zip(pieces, self.rows, strict=True)
        ]


def _stacked(paths: list[Path], lmax: int) -> Tensor:
    """Paths of one sender irrep to one irrep -> ((lmax+1)^2, (2 l3 + 1) paths, 2 l1 + 1)."""
    l1, l3 = paths[0].sender[0], paths[0].irrep[0]
    table = torch.zeros((lmax + 1) ** 2, 2 * l3 + 1, len(paths), 2 * l1 + 1, dtype=torch.float64)
    for k, path in enumerate(paths):
        l2 = path.degree
        symbol = wigner_3j(l1, l2, l3) * (2 * l3 + 1) ** 0.5  # (m1, m2, m3)
        table[l2**2 : (l2 + 1) ** 2, :, k] = symbol.permute(1, 2, 0)
    return table.flatten(1, 2)


class AtomConvolution(nn.Module):
    """Conv and Gate of one atom layer, for those output irreps that somebody reads.

    lin1 on the sender, the weighted product with the harmonics over all paths, the sum over
    neighbours over sqrt(num_neighbors), lin2; then, with a = 0.1 lin3, cos(a) sc + sin(a) lin2,
    where irreps that sc cannot reach take 1 in place of sin(a).

    Args:
        ins: the senders' (and receivers') irreps.
        inner: what lin1 makes of them; None for the same.
        outs: all output irreps of the published layer.
        kept: those of them that are read.
        lmax: of the harmonics.
        radial: makes the radial part for a number of path weights.
        num_neighbors: the typical number of neighbours.
    """

    def __init__(
        self,
        ins: Multiplicities,
        outs: Multiplicities,
        kept: Iterable[Irrep],
        lmax: int,
        radial: Callable[[int], nn.Module],
        num_neighbors: float,
        inner: Multiplicities | None = None,
    ) -> None:
        super().__init__()
        wanted, inner = set(kept), inner or ins
        self.kept = [k for k in outs if k in wanted]
        self.outs = {k: outs[k] for k in self.kept}
        paths = all_paths(inner, lmax, self.kept)
        self.gated = [k for k in self.kept if k[0] > 0]
        self.couplings = [
            Coupling(k, [p for p in paths if p.sender == k], lmax, self.kept)
            for k in inner
            if any(p.sender == k for p in paths)
        ]
        fans = {k: sum(inner[p.sender] for p in paths if p.irrep == k) for k in self.kept}
        before = gate_inputs(self.outs)
        self.fans, self.scalars = fans, outs[EVEN_SCALAR]
        self.gates = [outs[k] for k in self.gated]
        self.scale = num_neighbors**-0.5
        self.lin1 = BlockLinear(ins, inner)
        self.sc = BlockLinear(ins, before)
        self.radial = radial(sum(fans.values()))
        self.lin2 = BlockLinear(fans, before)
        self.lin3 = BlockLinear(fans, {EVEN_SCALAR: 1})

    def forward(
        self, features: Features, receivers: Tensor, senders: Tensor, edges: EdgeTensors
    ) -> Features:
        """{(l, p): (A, 2l + 1, channels)} -> the kept irreps of the next layer."""
        atoms = next(iter(features.values())).shape[0]
        sent = {k: v.index_select(0, senders) for k, v in self.lin1(features).items()}
        summed = self._sum(sent, receivers, edges, atoms)
        return self._gate(self._mix(self.sc(features), summed))

    def _sum(self, sent: Features, receivers: Tensor, edges: EdgeTensors, atoms: int) -> Features:
        """The weighted products, summed over each atom's neighbours."""
        coupled = [c.forward(edges.harmonics, sent[c.sender]) for c in self.couplings]
        weights = self.radial(edges.lengths, edges.basis) * self.scale
        summed = {}
        for n, (irrep, weight) in enumerate(
            zip(self.kept, weights.split(list(self.fans.values()), 1), strict=True)
        ):
            messages = torch.cat([pieces[n] for pieces in coupled], 2) * weight[:, None]
            rows = segment_sum(messages.flatten(1), receivers, atoms)
            summed[irrep] = rows.view(atoms, *messages.shape[1:])
        return summed

    def _mix(self, kept: Features, summed: Features) -> Features:
        """cos(a) sc(receiver) + sin(a) lin2(sum), or lin2(sum) alone where sc has no input."""
        angle = 0.1 * self.lin3({EVEN_SCALAR: summed[EVEN_SCALAR]})[EVEN_SCALAR]  # (A, 1, 1)
        cos, sin = angle.cos(), angle.sin()
        new = self.lin2(summed)
        return {k: cos * kept[k] + sin * v if k in kept else v for k, v in new.items()}

    def _gate(self, mixed: Features) -> Features:
        """silu on 0e, tanh on 0o, sigmoid gates on everything else."""
        even, *gates = mixed[EVEN_SCALAR].split([self.scalars, *self.gates], 2)
        done = {EVEN_SCALAR: SILU * nn.functional.silu(even)}
        if ODD_SCALAR in mixed:
            done[ODD_SCALAR] = TANH * mixed[ODD_SCALAR].tanh()
        for irrep, gate in zip(self.gated, gates, strict=True):
            done[irrep] = mixed[irrep] * (SIGMOID * gate.sigmoid())
        return {k: done[k] for k in self.kept}


def gate_inputs(outs: Multiplicities) -> Multiplicities:
    """What goes into a gate: 0e carries its scalars, then a gate for every channel with l > 0."""
    gates = sum(mul for (degree, _), mul in outs.items() if degree > 0)
    return {k: mul + gates * (k == EVEN_SCALAR) for k, mul in outs.items()}


@dataclass(frozen=True)
class EdgeTensors:
    """Geometry of edges as the convolutions read it.

    Attributes:
        lengths: (E,) Angstrom.
        harmonics: (E, (lmax + 1)^2) of receiver - sender.
        basis: (E, K) the radial basis of the lengths, or an empty tensor if none is read.
    """

    lengths: Tensor
    harmonics: Tensor
    basis: Tensor
