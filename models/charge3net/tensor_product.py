"""The tensor product of senders and harmonics, summed over neighbourhoods.

    mid_i = sum_j path(x_j, Y(d_ij); R(r_ij)) / sqrt(num_neighbors)
    path  l1 x l2 -> l3:  sqrt(2 l3 + 1) sum_m1m2 C_m1m2m3 x_m1 Y_m2 R,   C the Wigner 3j symbol

What a path sums over neighbours j is a matrix product over (j, m1): the symbols meet the harmonics
first, which no channel takes part in, and the radial weights meet the sender, so that nothing of
size edges x outputs is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from neupol_cli.models.charge3net.irreps import Irrep, Multiplicities, Path
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.neighbour_loops import NeighbourLoops
from neupol_cli.models.charge3net.linear import Features
from neupol_cli.models.charge3net.neighbourhoods import Neighbourhoods
from neupol_cli.models.nn.harmonics import Constant
from neupol_cli.models.nn.wigner import wigner_3j

# Atoms at a time, where no gradient needs them together.
BLOCK = 64


class TensorProduct:
    """All paths between the irreps of senders and those of an output.

    Args:
        senders: their irreps.
        paths: in the published order.
        lmax: of the harmonics.
        norm: a factor of all products.
    """

    def __init__(
        self, senders: Multiplicities, paths: list[Path], lmax: int, norm: float = 1.0
    ) -> None:
        by_sender = {k: [path for path in paths if path.sender == k] for k in senders}
        self.couplings = [Coupling(k, own, lmax, norm) for k, own in by_sender.items() if own]
        self.sizes = [len(c.paths) * senders[c.sender] for c in self.couplings]
        self.senders, self.lmax = senders, lmax

    @property
    def weights(self) -> int:
        """How many numbers R(r) has, one a path and channel of its sender."""
        return sum(self.sizes)

    @cached_property
    def _loops(self) -> NeighbourLoops:
        paths = {c.sender: c.paths for c in self.couplings}
        return NeighbourLoops(self.senders, paths, [c.table.exact for c in self.couplings])

    def __call__(
        self,
        sent: Features,
        radial: Callable[[Neighbourhoods], Tensor],
        neighbourhoods: Neighbourhoods,
    ) -> Features:
        """The products, summed over each point's neighbours.

        An atom and a movable point that lies on it receive the same from all but each other: sums
        are linear in the sender.

        Args:
            sent: {(l, p): (P, 2l + 1, channels)} of the senders.
            radial: gives the (E, weights) of some neighbourhoods' distances.
            neighbourhoods: of P points, or of P / 2 atoms with their points on them.

        Returns:
            {(l, p): (P, 2l + 1, channels)}, outputs of one irrep in the order of their paths.
        """
        if neighbourhoods.own is None:
            return self._products(sent, radial, neighbourhoods)
        both = {k: torch.add(*x.chunk(2)) for k, x in sent.items()}
        shared = self._products(both, radial, neighbourhoods)
        own = self._products(sent, radial, neighbourhoods.own)
        return {k: torch.cat((x, x)) + own[k] for k, x in shared.items()}

    def _products(
        self,
        sent: Features,
        radial: Callable[[Neighbourhoods], Tensor],
        neighbourhoods: Neighbourhoods,
    ) -> Features:
        """The same of points with neighbours of their own."""
        blocks = [self._block(sent, radial, b) for b in neighbourhoods.blocks(BLOCK)]
        if len(blocks) == 1:
            return blocks[0]
        return {k: torch.cat([block[k] for block in blocks]) for k in blocks[0]}

    def _block(
        self,
        sent: Features,
        radial: Callable[[Neighbourhoods], Tensor],
        neighbourhoods: Neighbourhoods,
    ) -> Features:
        library = kernels(neighbourhoods.harmonics, self.lmax).neighbour_loops
        if library is None:
            return self._sum(sent, radial(neighbourhoods), neighbourhoods)
        return self._loops(library, sent, radial, neighbourhoods)

    def _sum(self, sent: Features, weights: Tensor, neighbourhoods: Neighbourhoods) -> Features:
        senders, edges = neighbourhoods.senders.flatten(), neighbourhoods.edges.flatten()
        by_sender = weights.index_select(0, edges).split(self.sizes, 1)
        outputs: dict[Irrep, list[Tensor]] = {}
        for coupling, weight in zip(self.couplings, by_sender, strict=True):
            neighbours = sent[coupling.sender].index_select(0, senders)
            sums = coupling(neighbourhoods.harmonics, neighbours, weight)
            for path, summed in zip(coupling.paths, sums, strict=True):
                outputs.setdefault(path.irrep, []).append(summed)
        return {k: torch.cat(sums, 2) for k, sums in outputs.items()}


class Coupling:
    """All paths from one sender irrep (l1, p1)."""

    def __init__(self, sender: Irrep, paths: list[Path], lmax: int, norm: float = 1.0) -> None:
        self.sender, self.paths = sender, paths
        self.widths = [2 * path.irrep[0] + 1 for path in paths]
        components = 2 * sender[0] + 1
        table = torch.zeros((lmax + 1) ** 2, components, sum(self.widths), dtype=torch.float64)
        for path, stop in zip(paths, torch.tensor(self.widths).cumsum(0).tolist(), strict=True):
            l2, l3 = path.degree, path.irrep[0]
            symbol = wigner_3j(sender[0], l2, l3) * (2 * l3 + 1) ** 0.5  # (m1, m2, m3)
            part = symbol.transpose(0, 1)
            table[l2**2 : (l2 + 1) ** 2, :, stop - 2 * l3 - 1 : stop] = part
        self.table = Constant(table.flatten(1) * norm)  # (m2, m1 m3)

    def __call__(self, harmonics: Tensor, sent: Tensor, weights: Tensor) -> list[Tensor]:
        """Sums over neighbourhoods of K.

        Args:
            harmonics: (A, K, (lmax + 1)^2), zero in the padding.
            sent: (A K, 2 l1 + 1, u) the neighbours' features.
            weights: (A K, paths u) their radial weights.

        Returns:
            For every path (A, 2 l3 + 1, u).
        """
        symbols = harmonics @ self.table.like(harmonics)  # (A, K, m1 m3)
        symbols = symbols.view(harmonics.shape[0], -1, sum(self.widths))  # (A, K m1, m3)
        return contracted(symbols, sent, weights, self.widths)


def contracted(symbols: Tensor, sent: Tensor, weights: Tensor, widths: list[int]) -> list[Tensor]:
    """Path by path: symbols^T (2 l3 + 1, K m1) times weights x sent (K m1, u), for every atom.

    Args:
        symbols: (A, K m1, sum of 2 l3 + 1) Wigner symbols times harmonics.
        sent: (A K, m1, u) the neighbours' features.
        weights: (A K, paths u) their radial weights.
        widths: 2 l3 + 1 of each path.

    Returns:
        For every path (A, 2 l3 + 1, u).
    """
    atoms, channels = symbols.shape[0], sent.shape[2]
    weighted = [sent * weight[:, None] for weight in weights.split(channels, 1)]
    rows = symbols.split(widths, 2)
    return [
        part.transpose(1, 2) @ own.view(atoms, -1, channels)
        for part, own in zip(rows, weighted, strict=True)
    ]
