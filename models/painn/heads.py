"""What PaiNN's last state answers.

    scalar   y = sum_i q_i
    level    y = sum_i w_i q_i,  w = softmax over a structure of p_i
    vector, dipole, extent: as the equivariant transformer's (its heads.py)

q_i and p_i are L(silu(L(s_i))). A level, unlike a sum, is the same for two distant copies of a
molecule as for one; of two different ones the weights can choose (Chen, Kunkel, Cheng, Reuter and
Margraf 2023, doi 10.1039/d3sc00841j, pool orbital energies in this way).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neupol_cli.models.equivariant_transformer.heads import (
    DipoleHead,
    ExtentHead,
    VectorHead,
    xavier,
)
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.linear import Perceptron
from neupol_cli.models.painn.config import PaiNNConfig


class ScalarHead(nn.Module):
    """A sum over atoms."""

    numbers = 1  # of an atom

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.atoms = Perceptron(config.hidden, config.hidden // 2, self.numbers)
        for linear in (self.atoms.first, self.atoms.second):
            xavier(linear)

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H) and (A, 3, H), which is not read, -> (B, 1)."""
        return segment_sum(self.atoms(s), graph.batch, graph.size)


class LevelHead(ScalarHead):
    """A mean over atoms, by weights of their own."""

    numbers = 2

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H) and (A, 3, H), which is not read, -> (B, 1)."""
        q, p = self.atoms(s).unbind(1)
        highest = p.detach().new_zeros(graph.size)
        highest = highest.scatter_reduce(0, graph.batch, p.detach(), "amax", include_self=False)
        w = torch.exp(p - highest.index_select(0, graph.batch))
        sums = segment_sum(torch.stack((w * q, w), 1), graph.batch, graph.size)
        return sums[:, :1] / sums[:, 1:]


HEADS: dict[str, type[ScalarHead] | type[VectorHead] | type[ExtentHead]] = {
    "scalar": ScalarHead,
    "level": LevelHead,
    "vector": VectorHead,
    "dipole": DipoleHead,
    "extent": ExtentHead,
}
