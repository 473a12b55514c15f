"""What Equiformer's last state answers: the last block's way out of it, and a head for each target.

    f       = shortcut(h) + Lin(Gate(Lin(EqLN h)))          Readout.feature
    scalar  y = sum_i Lin(1.679 silu(Lin(EqLN f_i))) / sqrt(atoms)            as published
    vector  y = sum_i (q_i (x_i - c) + u_i) / sqrt(atoms)                     nn/dipole.py
            (q, u)_i = Lin(Gate(Lin(EqLN f_i)))             one 0e and one 1e

Where every target is a number, h and f have scalars only. For a vector they have l = 1 too, f as
many copies as the state: the published network answers with numbers, this head is ours. ``atoms``
is the average number of atoms, c the centre of mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.equiformer.config import EquiformerConfig
from neupol_cli.models.equiformer.so3 import (
    EquivariantLayerNorm,
    EquivariantLinear,
    FeedForward,
    Muls,
    add,
    gate_inputs,
    gated,
    multiplicities,
)
from neupol_cli.models.nn.activation import SILU
from neupol_cli.models.nn.dipole import dipole
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.linear import Linear


class ScalarHead(nn.Module):
    """One number: Lin silu(Lin x), the silu scaled as e3nn scales it, summed over atoms."""

    degrees = 1

    def __init__(self, feature: Muls) -> None:
        super().__init__()
        self.first = scaled_linear(feature[0], feature[0])
        self.second = scaled_linear(feature[0], 1)

    def forward(self, x: Sequence[Tensor], graph: Graph) -> Tensor:
        """(A, 2l + 1, mul) a degree -> (B, 1)."""
        return segment_sum(self.by_atom(x), graph.batch, graph.size)

    def by_atom(self, x: Sequence[Tensor]) -> Tensor:
        """(A, 2l + 1, mul) a degree -> (A, 1)."""
        return self.second(SILU * functional.silu(self.first(x[0].squeeze(1))))


class VectorHead(nn.Module):
    """One vector, a dipole: of charges and of atoms' own."""

    degrees = 2

    def __init__(self, feature: Muls) -> None:
        super().__init__()
        self.muls = feature
        self.first = EquivariantLinear(feature, gate_inputs(feature))
        self.second = EquivariantLinear(feature, (1, 1))

    def forward(self, x: Sequence[Tensor], graph: Graph) -> Tensor:
        """(A, 2l + 1, mul) a degree -> (B, 3)."""
        charges, own = self.second(gated(self.first(x), self.muls))  # (A, 1, 1), (A, 3, 1)
        return dipole(charges.squeeze(2), own.squeeze(2), graph)


HEADS: dict[str, type[ScalarHead] | type[VectorHead]] = {
    "scalar": ScalarHead,
    "vector": VectorHead,
}


def degrees_read(readouts: Sequence[str]) -> int:
    """How many degrees of the last state some readouts need: l = 0, or l = 0 and 1."""
    return max(HEADS[name].degrees for name in readouts)


class Readout(nn.Module):
    """The last block's step to ``feature``, shared by all targets, and a head for each.

    Args:
        config: sizes.
        readouts: how each target is read out.

    Attributes:
        muls: of the degrees of the state that it reads.
    """

    def __init__(self, config: EquiformerConfig, readouts: Sequence[str]) -> None:
        super().__init__()
        degrees = degrees_read(readouts)
        self.muls = multiplicities(config.irreps)[:degrees]
        hidden = multiplicities(config.mlp_irreps)[:degrees]
        feature = (config.feature, *self.muls[1:])
        self.scale = config.average_nodes**-0.5
        self.norm_2 = EquivariantLayerNorm(self.muls, config.epsilon)
        self.ffn = FeedForward(self.muls, hidden, feature)
        self.shortcut = EquivariantLinear(self.muls, feature)
        self.norm = EquivariantLayerNorm(feature, config.epsilon)
        self.heads = nn.ModuleList(HEADS[name](feature) for name in readouts)

    def feature(self, state: Sequence[Tensor]) -> list[Tensor]:
        """(A, 2l + 1, mul) a degree -> (A, 2l + 1, feature) a degree that is read."""
        h = state[: len(self.muls)]
        return add(self.shortcut(h), self.ffn(self.norm_2(h)))

    def forward(self, state: Sequence[Tensor], graph: Graph) -> Tensor:
        """(A, 2l + 1, mul) a degree -> (B, C), a column a number and three a vector."""
        x = self.norm(self.feature(state))
        return torch.cat([head(x, graph) for head in self.heads], 1) * self.scale


def scaled_linear(ins: int, outs: int) -> Linear:
    """Weights N(0, 1/in), no bias at the start."""
    linear = Linear(ins, outs)
    nn.init.normal_(linear.weight, std=ins**-0.5)
    nn.init.zeros_(linear.bias)
    return linear
