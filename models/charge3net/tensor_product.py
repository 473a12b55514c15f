"""ChargE3Net's convolution over atoms (Koker et al., eq. 2) as a few dense products.

Features are dictionaries {(l, p): (A, 2l + 1, channels)} with p = -1 (odd) or 1 (even), in the
order 0o, 0e, 1o, 1e, ... of the published code. A path couples a sender's irrep (l1, p1) with
Y_l2, whose parity is (-1)^l2, to an output irrep (l3, p1 (-1)^l2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.harmonics import Constant, wigner_3j

Irrep = tuple[int, int]
Multiplicities = dict[Irrep, int]
Features = dict[Irrep, Tensor]

# Atoms at a time, where no gradient needs them together.
BLOCK = 64

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

    The matrices lie in one flat weight, irreps in order, (in, out) each; it starts as N(0, 1).
    Both are as in e3nn, and one vector is one parameter for an optimiser to step.
    """

    def __init__(self, ins: Mapping[Irrep, int], outs: Mapping[Irrep, int]) -> None:
        super().__init__()
        self.shapes = {k: (ins[k], outs[k]) for k in ins if k in outs}
        self.sizes = [a * b for a, b in self.shapes.values()]
        self.weight = nn.Parameter(torch.randn(sum(self.sizes)))
        fans = [torch.full((a * b,), a**-0.5, dtype=torch.float64) for a, b in self.shapes.values()]
        self.factors = Constant(torch.cat([torch.ones(0, dtype=torch.float64), *fans]))

    def matrices(self) -> dict[Irrep, Tensor]:
        """The map of each irrep with its factor, (in, out)."""
        parts = (self.weight * self.factors.like(self.weight)).split(self.sizes)
        return {k: p.view(shape) for (k, shape), p in zip(self.shapes.items(), parts, strict=True)}

    def forward(self, features: Features) -> Features:
        """{(l, p): (..., in)} -> {(l, p): (..., out)} for the irreps that have a matrix."""
        matrices = self.matrices()
        return {k: v @ matrices[k] for k, v in features.items() if k in matrices}


def name(irrep: Irrep) -> str:
    """An irrep as it is written: 1o, 2e."""
    return f"{irrep[0]}{'e' if irrep[1] == 1 else 'o'}"


class Coupling:
    """All paths from one sender irrep (l1, p1), contracted with whole neighbourhoods at once.

    What a path sums over neighbours j, sum_j sum_m1 C(Y_j)[m1, m3] R_j[u] x_j[m1, u], is a matrix
    product over (j, m1): the symbols meet the harmonics first, which no channel takes part in,
    and the radial weights meet the sender, so that nothing of size edges x outputs is ever made.
    """

    def __init__(self, sender: Irrep, paths: list[Path], lmax: int) -> None:
        self.sender, self.paths = sender, paths
        self.widths = [2 * path.irrep[0] + 1 for path in paths]
        self.components = 2 * sender[0] + 1
        table = torch.zeros((lmax + 1) ** 2, self.components, sum(self.widths), dtype=torch.float64)
        for path, stop in zip(paths, torch.tensor(self.widths).cumsum(0).tolist(), strict=True):
            l2, l3 = path.degree, path.irrep[0]
            symbol = wigner_3j(sender[0], l2, l3) * (2 * l3 + 1) ** 0.5  # (m1, m2, m3)
            part = symbol.transpose(0, 1)
            table[l2**2 : (l2 + 1) ** 2, :, stop - 2 * l3 - 1 : stop] = part
        self.table = Constant(table.flatten(1))

    def __call__(self, harmonics: Tensor, sent: Tensor, weights: Tensor) -> list[Tensor]:
        """Sums over neighbourhoods of K slots.

        Args:
            harmonics: (A, K, (lmax + 1)^2), zero in an empty slot.
            sent: (A K, 2 l1 + 1, u) the neighbours' features.
            weights: (A K, paths u) their radial weights.

        Returns:
            For every path (A, 2 l3 + 1, u).
        """
        atoms = harmonics.shape[0]
        symbols = (harmonics @ self.table.like(harmonics)).view(atoms, -1, sum(self.widths))
        channels = sent.shape[2]
        summed = _Contract.apply(symbols, sent, weights, self.widths)  # (A, sum (2 l3 + 1) u)
        parts = summed.split([width * channels for width in self.widths], 1)
        return [
            part.view(atoms, width, channels)
            for part, width in zip(parts, self.widths, strict=True)
        ]


class _Contract(torch.autograd.Function):
    """Path by path: symbols^T (2 l3 + 1, K m1) times weights x sent (K m1, u), for every atom."""

    @staticmethod
    def forward(
        ctx: Any, symbols: Tensor, sent: Tensor, weights: Tensor, widths: list[int]
    ) -> Tensor:
        ctx.save_for_backward(symbols, sent, weights)
        ctx.widths = widths
        atoms, channels = symbols.shape[0], sent.shape[2]
        weighted = _weighted(symbols, sent, weights, len(widths))
        out = sent.new_empty(atoms, sum(widths) * channels)
        start = 0
        for part, width in zip(weighted, widths, strict=True):
            rows = symbols[:, :, start : start + width].transpose(1, 2)
            found = torch.bmm(rows, part)  # (A, 2 l3 + 1, u)
            out[:, start * channels : (start + width) * channels] = found.flatten(1)
            start += width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        symbols, sent, weights = ctx.saved_tensors
        paths, (edges, components, channels) = len(ctx.widths), sent.shape
        moved = ctx.needs_input_grad[0]
        dsymbols = torch.empty_like(symbols) if moved else None
        weighted = _weighted(symbols, sent, weights, paths) if moved else None
        dweighted = sent.new_empty(paths, *symbols.shape[:2], channels)
        start = 0
        for path, width in enumerate(ctx.widths):
            part = gradient[:, start * channels : (start + width) * channels]
            part = part.reshape(-1, width, channels)
            torch.bmm(symbols[:, :, start : start + width], part, out=dweighted[path])
            if dsymbols is not None and weighted is not None:
                found = torch.bmm(weighted[path], part.transpose(1, 2))
                dsymbols[:, :, start : start + width] = found
            start += width
        dweighted = dweighted.view(paths, edges, components, channels)
        by_path = weights.reshape(edges, paths, channels).transpose(0, 1)[:, :, None]
        dsent = (dweighted * by_path).sum(0)
        dweights = (dweighted * sent).sum(2).transpose(0, 1).reshape(edges, paths * channels)
        return dsymbols, dsent, dweights, None


def _weighted(symbols: Tensor, sent: Tensor, weights: Tensor, paths: int) -> Tensor:
    """(E, m1, u), (E, paths u) -> (paths, A, K m1, u)."""
    edges, components, channels = sent.shape
    by_path = weights.reshape(edges, paths, channels).transpose(0, 1)  # (paths, E, u)
    weighted = sent.new_empty(paths, edges, components, channels)
    torch.mul(sent, by_path[:, :, None], out=weighted)
    return weighted.view(paths, *symbols.shape[:2], channels)


@dataclass(frozen=True)
class Neighbourhoods:
    """The neighbours of A atoms, in K slots each.

    Attributes:
        senders: (A, K) the neighbour; any atom in an empty slot.
        harmonics: (A, K, (lmax + 1)^2) of receiver - sender; zero in an empty slot.
        edges: (A, K) which of the E distances belongs here.
        lengths: (E,) Angstrom, and their (E, basis_size) ``basis``.
    """

    senders: Tensor
    harmonics: Tensor
    edges: Tensor
    lengths: Tensor
    basis: Tensor

    @classmethod
    def of(cls, edges: Edges, atoms: int, harmonics: Tensor, basis: Tensor) -> Neighbourhoods:
        """From edges sorted by receiver, with the harmonics (E, ...) of receiver - sender."""
        device = edges.receivers.device
        counts = torch.bincount(edges.receivers, minlength=atoms)
        width = max(int(counts.max()), 1) if atoms else 1
        count = edges.receivers.shape[0]
        rank = torch.arange(count, device=device) - (counts.cumsum(0) - counts)[edges.receivers]
        place = edges.receivers * width + rank
        which = torch.zeros(atoms * width, dtype=torch.long, device=device)
        which[place] = torch.arange(count, device=device)
        senders = torch.zeros_like(which)
        senders[place] = edges.senders
        slots = harmonics.new_zeros(atoms * width, harmonics.shape[1])
        slots = slots.index_copy(0, place, harmonics)
        shape = (atoms, width)
        lengths = edges.lengths
        if not count:  # an empty slot points at a distance: without any edge, at one of no meaning
            lengths, basis = lengths.new_zeros(1), basis.new_zeros(1, basis.shape[1])
        return cls(senders.view(shape), slots.view(*shape, -1), which.view(shape), lengths, basis)

    def blocks(self, size: int) -> Iterator[Neighbourhoods]:
        """The same for ``size`` atoms at a time, with the distances of each block alone."""
        if self.senders.shape[0] <= size or torch.is_grad_enabled():
            yield self
            return
        columns = (self.senders, self.harmonics, self.edges)
        for parts in zip(*(c.split(size) for c in columns), strict=True):
            senders, harmonics, edges = parts
            flat = edges.flatten()
            local = torch.arange(flat.shape[0], device=flat.device).view(edges.shape)
            yield Neighbourhoods(senders, harmonics, local, self.lengths[flat], self.basis[flat])


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
        senders = [k for k in inner if any(p.sender == k for p in paths)]
        self.couplings = [Coupling(k, [p for p in paths if p.sender == k], lmax) for k in senders]
        self.sizes = [len(c.paths) * inner[c.sender] for c in self.couplings]
        fans = {k: sum(inner[p.sender] for p in paths if p.irrep == k) for k in self.kept}
        before = gate_inputs(self.outs)
        self.fans, self.scalars = fans, outs[EVEN_SCALAR]
        self.gates = [outs[k] for k in self.gated]
        self.scale = num_neighbors**-0.5
        self.lin1 = BlockLinear(ins, inner)
        self.sc = BlockLinear(ins, before)
        self.radial = radial(sum(self.sizes))
        self.lin2 = BlockLinear(fans, before)
        self.lin3 = BlockLinear(fans, {EVEN_SCALAR: 1})

    def forward(self, features: Features, hoods: Neighbourhoods) -> Features:
        """{(l, p): (A, 2l + 1, channels)} -> the kept irreps of the next layer."""
        sent = self.lin1(features)
        parts = [self._sum(sent, block) for block in hoods.blocks(BLOCK)]
        summed = (
            parts[0]
            if len(parts) == 1
            else {k: torch.cat([part[k] for part in parts]) for k in self.kept}
        )
        return self._gate(self._mix(self.sc(features), summed))

    def _sum(self, sent: Features, hoods: Neighbourhoods) -> Features:
        """The weighted products, summed over each atom's neighbours."""
        senders, edges = hoods.senders.flatten(), hoods.edges.flatten()
        weights = self.radial(hoods.lengths, hoods.basis) * self.scale
        by_sender = weights.index_select(0, edges).split(self.sizes, 1)
        pieces: dict[Irrep, list[Tensor]] = {k: [] for k in self.kept}
        for coupling, weight in zip(self.couplings, by_sender, strict=True):
            neighbours = sent[coupling.sender].index_select(0, senders)
            found = coupling(hoods.harmonics, neighbours, weight)
            for path, piece in zip(coupling.paths, found, strict=True):
                pieces[path.irrep].append(piece)
        return {k: torch.cat(found, 2) for k, found in pieces.items()}

    def _mix(self, kept: Features, summed: Features) -> Features:
        """cos(a) sc(receiver) + sin(a) lin2(sum), or lin2(sum) alone where sc has no input."""
        angle = 0.1 * self.lin3({EVEN_SCALAR: summed[EVEN_SCALAR]})[EVEN_SCALAR]  # (A, 1, 1)
        cos, sin = angle.cos(), angle.sin()
        new = self.lin2(summed)
        return {k: torch.addcmul(cos * kept[k], sin, v) if k in kept else v for k, v in new.items()}

    def _gate(self, mixed: Features) -> Features:
        """silu on 0e, tanh on 0o, sigmoid gates on everything else."""
        even, gates = mixed[EVEN_SCALAR].split([self.scalars, sum(self.gates)], 2)
        done = {EVEN_SCALAR: SILU * nn.functional.silu(even)}
        opened = (SIGMOID * gates.sigmoid()).split(self.gates, 2)
        if ODD_SCALAR in mixed:
            done[ODD_SCALAR] = TANH * mixed[ODD_SCALAR].tanh()
        for irrep, gate in zip(self.gated, opened, strict=True):
            done[irrep] = mixed[irrep] * gate
        return {k: done[k] for k in self.kept}


def gate_inputs(outs: Multiplicities) -> Multiplicities:
    """What goes into a gate: 0e carries its scalars, then a gate for every channel with l > 0."""
    gates = sum(mul for (degree, _), mul in outs.items() if degree > 0)
    return {k: mul + gates * (k == EVEN_SCALAR) for k, mul in outs.items()}
