"""Equiformer's attention: values that are never made for an edge.

    out_i = Lin_proj(sum_j a_ij Lin(G_ij x Y(n_ij)))      one a_ij a head, heads split Lin's output

The tensor product has weights that do not depend on the edge and Lin is linear, so both commute
with the sum. What is summed is S_i = sum_j a_ij Y(n_ij) G_ijᵀ, one small matrix product an atom;
the path weights and Lin follow, on atoms, a fifteenth of the edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.edge_frame import Pairs, Path, paths
from neupol_cli.models.harmonics import Constant
from neupol_cli.models.so3 import EquivariantLinear, Muls


def attention(logits: Tensor, pairs: Pairs, points: int, drop: float) -> Tensor:
    """(E, heads) -> (points, degree, heads): softmax over each atom's neighbours.

    Places without a neighbour are zero. ``drop`` is the probability of dropout.
    """
    shape = (points, pairs.degree, logits.shape[1])
    # Not minus infinity: an atom without neighbours would divide zero by zero.
    table = logits.new_full((points * pairs.degree, logits.shape[1]), -1e30)
    table = table.index_copy(0, pairs.slots, logits).view(shape)
    present = logits.new_zeros(points * pairs.degree).index_fill(0, pairs.slots, 1.0)
    return functional.dropout(table.softmax(1) * present.view(*shape[:2], 1), drop, drop > 0)


def spread(values: Tensor, pairs: Pairs, points: int) -> Tensor:
    """(E, n) -> (points, degree, n), zero where an atom has no further neighbour."""
    table = values.new_zeros(points * pairs.degree, values.shape[1])
    return table.index_copy(0, pairs.slots, values).view(points, pairs.degree, -1)


class Values(nn.Module):
    """S_i -> sum_j a_ij Lin(G_ij x Y): the path weights, the couplings and Lin, a head at a time.

    Args:
        muls: of G.
        head: of one head's values.
        heads: their number.
        kept: how many degrees of the result somebody reads.
    """

    def __init__(self, muls: Muls, head: Muls, heads: int, kept: int) -> None:
        super().__init__()
        self.muls, self.heads, self.kept = muls, heads, kept
        self.head = head[:kept]
        lmax = len(muls) - 1
        self.paths = [path for path in paths(lmax) if path.l3 < kept]
        widths = [sum(muls[p.l1] for p in self.paths if p.l3 == l3) for l3 in range(kept)]
        outs = tuple(mul * heads for mul in self.head)
        self.path_weights = nn.Parameter(torch.randn(sum(muls[p.l1] for p in self.paths)))
        self.lin = EquivariantLinear(tuple(widths), outs)
        self.couplings = [
            [
                self._coupling([p for p in self.paths if p.l1 == l1 and p.l3 == l3], lmax, l1)
                for l3 in range(kept)
            ]
            for l1 in range(lmax + 1)
        ]

    @staticmethod
    def _coupling(found: Sequence[Path], lmax: int, l1: int) -> Constant:
        """((lmax + 1)^2, 2 l1 + 1, paths, 2 l3 + 1) of the paths from l1 to one l3."""
        l3 = found[0].l3
        table = torch.zeros((lmax + 1) ** 2, 2 * l1 + 1, len(found), 2 * l3 + 1)
        table = table.double()
        for k, path in enumerate(found):
            table[path.l2**2 : (path.l2 + 1) ** 2, :, k] = path.symbol().transpose(0, 1)
        return Constant(table)

    def forward(self, attention: Tensor, harmonics: Tensor, messages: Tensor) -> list[Tensor]:
        """The sum over neighbours.

        Args:
            attention: (P, degree, heads).
            harmonics: (P, degree, (lmax + 1)^2).
            messages: (P, degree, dim) with components before channels.

        Returns:
            for l < kept (P, 2l + 1, heads x head).
        """
        points, _, heads = attention.shape
        both = attention[:, :, :, None] * harmonics[:, :, None, :]
        summed = torch.bmm(both.flatten(2).transpose(1, 2), messages)  # (P, heads Y, dim)
        sizes = [mul * (2 * degree + 1) for degree, mul in enumerate(self.muls)]
        moments = [
            block.view(points, heads, harmonics.shape[2], 2 * l1 + 1, mul)
            for l1, (block, mul) in enumerate(zip(summed.split(sizes, 2), self.muls, strict=True))
        ]
        total = attention.sum(1)  # (P, heads): one, but for dropout and lonely atoms
        return [self._values(moments, total, l3) for l3 in range(self.kept)]

    def _values(self, moments: Sequence[Tensor], total: Tensor, l3: int) -> Tensor:
        """(P, 2 l3 + 1, heads x head) of one degree."""
        heads = self.heads
        stacked = torch.cat(
            [
                torch.einsum("phcmu,cmko->phoku", moment, couplings[l3].like(moment)).flatten(3)
                for moment, couplings in zip(moments, self.couplings, strict=True)
            ],
            3,
        )  # (P, heads, 2 l3 + 1, paths' channels)
        matrix = self.matrix(l3).view(heads, -1, stacked.shape[3])
        values = torch.einsum("phok,hwk->pohw", stacked, matrix)
        if l3 == 0 and self.lin.bias is not None:
            bias = self.lin.bias.view(heads, -1)
            values = values + (total[:, :, None] * bias)[:, None]
        return values.flatten(2)

    def matrix(self, l3: int) -> Tensor:
        """(heads x head, paths' channels) Lin's matrix with the path weights in it."""
        weights = self.path_weights.split([self.muls[p.l1] for p in self.paths])
        mine = [w for w, path in zip(weights, self.paths, strict=True) if path.l3 == l3]
        return self.lin.weights[l3] * torch.cat(mine)
