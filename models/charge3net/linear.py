"""Equivariant linear maps of features {(l, p): (..., 2l + 1, channels)}."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neupol_cli.models.charge3net.irreps import Irrep, matrix_shapes
from neupol_cli.models.nn.harmonics import Constant

Features = dict[Irrep, Tensor]


class BlockLinear(nn.Module):
    """One matrix an irrep: out_k = in_k W_k / sqrt(fan in), no bias.

    The matrices lie in one flat weight, irreps in order, (in, out) each; it starts as N(0, 1).
    Both are as in e3nn, and one vector is one parameter for an optimiser to step.
    """

    def __init__(self, ins: Mapping[Irrep, int], outs: Mapping[Irrep, int]) -> None:
        super().__init__()
        self.shapes = matrix_shapes(ins, outs)
        self.sizes = [a * b for a, b in self.shapes.values()]
        self.weight = nn.Parameter(torch.randn(sum(self.sizes)))
        fans = [torch.full((a * b,), a**-0.5, dtype=torch.float64) for a, b in self.shapes.values()]
        self.factors = Constant(torch.cat([torch.ones(0, dtype=torch.float64), *fans]))

    def matrices(self) -> Features:
        """The map of each irrep with its factor, (in, out)."""
        flat = (self.weight * self.factors.like(self.weight)).split(self.sizes)
        blocks = zip(self.shapes.items(), flat, strict=True)
        return {irrep: block.view(shape) for (irrep, shape), block in blocks}

    def forward(self, features: Features) -> Features:
        """{(l, p): (..., in)} -> {(l, p): (..., out)} for the irreps that have a matrix."""
        matrices = self.matrices()
        return {k: v @ matrices[k] for k, v in features.items() if k in matrices}
