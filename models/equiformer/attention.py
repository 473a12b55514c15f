"""Equiformer's attention weights, and the matrices that its values come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.equiformer.kernels.edge_frame import coupling
from neupol_cli.models.equiformer.so3 import EquivariantLinear, Muls
from neupol_cli.models.equiformer.tensor_product import Path, TensorProduct, paths
from neupol_cli.models.nn.graph import segment_sum


def attended(
    logits: Tensor, values: Sequence[Tensor], receivers: Tensor, points: int, drop: float
) -> list[Tensor]:
    """sum_j a_ij v_ij with a the softmax of the logits over an atom's neighbours.

    The softmax's denominator divides the sum and not each edge; an atom alone gets zero.

    Args:
        logits: (E, heads).
        values: for each l (E, 2l + 1, heads x head).
        receivers: (E,).
        points: how many there are.
        drop: probability of dropout of a weight.

    Returns:
        for each l (points, 2l + 1, heads x head).
    """
    heads = logits.shape[1]
    largest = logits.new_full((points, heads), -torch.inf)
    index = receivers[:, None].expand(-1, heads)
    largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
    raised = (logits - largest.index_select(0, receivers)).exp()  # (E, heads)
    total = segment_sum(raised, receivers, points)
    share = torch.where(total > 0, total, 1.0).reciprocal()[:, None, :, None]
    raised = functional.dropout(raised, drop, drop > 0)[:, None, :, None]
    summed = []
    for each in values:
        weighted = each.unflatten(2, (heads, -1)) * raised  # (E, 2l + 1, heads, head)
        summed.append((segment_sum(weighted, receivers, points) * share).flatten(2))
    return summed


class Values(nn.Module):
    """Lin(G x Y; path weights); in an edge's frame, one matrix for each m.

    Args:
        muls: of G.
        outs: of the values, all heads together, of those degrees that somebody reads.
    """

    def __init__(self, muls: Muls, outs: Muls) -> None:
        super().__init__()
        self.muls, self.outs = muls, outs
        self.paths = [path for path in paths(len(muls) - 1) if path.l3 < len(outs)]
        self.product = TensorProduct(muls, self.paths)
        self.path_weights = nn.Parameter(torch.randn(self.product.weights))
        self.lin = EquivariantLinear(tuple(self.product.widths[: len(outs)]), outs)

    def forward(self, opened: Sequence[Tensor], harmonics: Tensor) -> list[Tensor]:
        """G (E, 2l + 1, mul) a degree, Y (E, (lmax + 1)^2) -> (E, 2l + 1, out) a degree."""
        return self.lin(self.product(opened, harmonics, self.path_weights))

    def matrices(self) -> tuple[list[Tensor], list[Tensor]]:
        """For each m (out, in): from l1 = m.. (and, for m > 0, from -m and m swapped) to l3 = m..

        Returns:
            Those of edges, and those of edges of no length, where Y_l is zero for l > 0.
        """
        blocks = self._blocks()
        degrees = range(len(self.outs))
        short = {path: block for path, block in blocks.items() if path.l2 == 0}
        return [self._matrix(m, blocks) for m in degrees], [self._matrix(m, short) for m in degrees]

    def bias(self) -> Tensor:
        """(out of m = 0,): Lin's on the scalars."""
        assert self.lin.bias is not None
        return functional.pad(self.lin.bias, (0, sum(self.outs[1:])))

    def _blocks(self) -> dict[Path, Tensor]:
        """(out, mul) a path: Lin's columns times the path's weights."""
        weights = self.path_weights.split([self.muls[p.l1] for p in self.paths])
        mine = [
            [w for w, p in zip(weights, self.paths, strict=True) if p.l3 == k]
            for k in range(len(self.outs))
        ]
        whole = [w * torch.cat(each) for w, each in zip(self.lin.weights, mine, strict=True)]
        found: dict[Path, Tensor] = {}
        for l3, matrix in enumerate(whole):
            here = [p for p in self.paths if p.l3 == l3]
            found |= dict(zip(here, matrix.split([self.muls[p.l1] for p in here], 1), strict=True))
        return found

    def _matrix(self, m: int, blocks: dict[Path, Tensor]) -> Tensor:
        parities = (True, False) if m else (True,)
        return torch.cat(
            [
                torch.cat(
                    [
                        self._added(l1, l3, m, even, blocks)
                        for even in parities
                        for l1 in range(m, len(self.muls))
                    ],
                    1,
                )
                for l3 in range(m, len(self.outs))
            ]
        )

    def _added(self, l1: int, l3: int, m: int, even: bool, blocks: dict[Path, Tensor]) -> Tensor:
        """(out of l3, mul of l1): the sum of the paths of one parity, with their constants."""
        total = self.path_weights.new_zeros(self.outs[l3], self.muls[l1])
        for path, block in blocks.items():
            if (path.l1, path.l3, path.even) == (l1, l3, even) and coupling(path, m):
                total = torch.add(total, block, alpha=coupling(path, m))
        return total
