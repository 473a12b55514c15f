"""What PaiNN's last state answers.

    scalar   y = sum_i q_i
    level    y = sum_i w_i q_i,  w = softmax over a structure of p_i
    extent   y = sum_i q_i |d_i|^2 + <u_i, d_i> + p_i,  d_i = (x_i - c) / 2.5 Angstrom
    vector, dipole: as the equivariant transformer's (its heads.py), where c is

q_i and p_i are L(silu(L(s_i))), u_i of the extent is a mean of v_i. What extends from c is an
atom's charge cloud: its monopole, as published, and here its dipole and its own extent, too, of
which <r^2> about c is made exactly. In these lengths its factors are about one, as a sum's are: in
Angstrom, as published, |d_i|^2 makes a step of q_i count several times, and so its gradient.

A level, unlike a sum, is the same for two distant copies of a molecule as for one; of two different
ones the weights can choose (Chen, Kunkel, Cheng, Reuter and Margraf 2023, doi 10.1039/d3sc00841j,
pool orbital energies in this way).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neupol_cli.models.equivariant_transformer.heads import (
    DipoleHead,
    VectorHead,
    xavier,
)
from neupol_cli.models.nn.dipole import arms
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, Perceptron
from neupol_cli.models.painn.config import PaiNNConfig

REACH = 2.5  # Angstrom: about the mean distance of a small molecule's atoms from its centre


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


class ExtentHead(ScalarHead):
    """How far what the atoms have extends from the centre of mass."""

    numbers = 2

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__(config)
        self.own = xavier(Linear(config.hidden, 1, bias=False))

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H), (A, 3, H) -> (B, 1)."""
        from_centre = arms(graph) / REACH  # (A, 3)
        q, p = self.atoms(s).split(1, 1)
        dipoles = self.own(v)[:, :, 0]  # (A, 3)
        own = q * from_centre.square().sum(1, keepdim=True) + p
        own = own + (dipoles * from_centre).sum(1, keepdim=True)
        return segment_sum(own, graph.batch, graph.size)


HEADS: dict[str, type[ScalarHead] | type[VectorHead]] = {
    "scalar": ScalarHead,
    "level": LevelHead,
    "vector": VectorHead,
    "dipole": DipoleHead,
    "extent": ExtentHead,
}
