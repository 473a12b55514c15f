"""How far a movable point of Neural Polarization goes, from Equiformer's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neupol_cli.models.equiformer.so3 import (
    EquivariantLayerNorm,
    EquivariantLinear,
    Muls,
    gate_inputs,
    gated,
    unpacked,
)
from neupol_cli.models.equiformer.tensor_product import paths
from neupol_cli.models.nn.harmonics import Constant


class Displacement(nn.Module):
    """pi of Neural Polarization: a tensor product of two linear maps of the state, to one vector.

        pi(v) = sum over paths and channels of w (Gate(Lin EqLN v) x Lin EqLN v) of l = 1

    The paper asks for a shallow network on a tensor product with one l = 1 output. Sixteen channels
    a degree, the gate, and the start at a thousandth of unit size are choices made here.
    """

    channels = 16

    def __init__(self, muls: Muls, epsilon: float) -> None:
        super().__init__()
        hidden = (self.channels,) * len(muls)
        self.muls, self.hidden = muls, hidden
        self.norm = EquivariantLayerNorm(muls, epsilon)
        self.left = EquivariantLinear(muls, gate_inputs(hidden))
        self.right = EquivariantLinear(muls, hidden)
        self.paths = [path for path in paths(len(muls) - 1) if path.l3 == 1]
        count = len(self.paths) * self.channels
        self.mix = nn.Parameter(1e-3 * count**-0.5 * torch.randn(len(self.paths), self.channels))
        self.symbols = [Constant(path.symbol()) for path in self.paths]

    def forward(self, state: Tensor) -> Tensor:
        """(A, dim) -> (A, 3) Angstrom."""
        y = self.norm(unpacked(state, self.muls))
        left, right = gated(self.left(y), self.hidden), self.right(y)
        moved = state.new_zeros(state.shape[0], 3)
        for path, symbol, weight in zip(self.paths, self.symbols, self.mix, strict=True):
            first = left[path.l1] * weight  # (A, 2 l1 + 1, channels)
            outer = torch.bmm(first, right[path.l2].transpose(1, 2))  # (A, 2 l1 + 1, 2 l2 + 1)
            moved = moved + outer.flatten(1) @ symbol.like(state).flatten(0, 1)
        return moved
