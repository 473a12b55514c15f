"""Depthwise tensor products of features with spherical harmonics, path by path.

    (u x Y)_l3 = w sqrt(2 l3 + 1) sum_ab C_abc u_a Y_b      one path l1 x l2 -> l3, C Wigner's 3j

Each channel u of l1 makes one channel of l3, times a weight of its own; the outputs of one l3 are
stacked in the order of the paths, l1, l2, l3 ascending.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.nn.harmonics import Constant
from neupol_cli.models.nn.wigner import wigner_3j


@dataclass(frozen=True)
class Path:
    """One coupling l1 x Y_l2 -> l3."""

    l1: int
    l2: int
    l3: int

    @property
    def even(self) -> bool:
        """Whether l1 + l2 + l3 is even; the others are like cross products."""
        return (self.l1 + self.l2 + self.l3) % 2 == 0

    def symbol(self) -> Tensor:
        """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1) of the tensor product with e3nn's normalisation."""
        return wigner_3j(self.l1, self.l2, self.l3) * math.sqrt(2 * self.l3 + 1)


@lru_cache(maxsize=8)
def paths(lmax: int) -> tuple[Path, ...]:
    """Every coupling of l1, l2, l3 <= lmax, in the published order."""
    degrees = range(lmax + 1)
    return tuple(
        Path(l1, l2, l3)
        for l1 in degrees
        for l2 in degrees
        for l3 in degrees
        if abs(l1 - l2) <= l3 <= l1 + l2
    )


def paths_read(muls: Muls, degrees: int) -> list[Path]:
    """The couplings of l <= lmax that somebody reads if only ``degrees`` leave the attention.

    Scalars alone see no odd path: what it makes lies across the edge, and has no part in G . Y.
    """
    every = paths(len(muls) - 1)
    return [path for path in every if degrees > 1 or path.even]


class TensorProduct:
    """u x Y along some paths.

    Args:
        muls: channels of u, a degree.
        chosen: the paths, in the published order.

    Attributes:
        places: where a path's weights are.
        stacks: for each l3, where a path's channels begin.
        widths: channels of each l3, all paths side by side.
        weights: how many path weights there are.
    """

    def __init__(self, muls: Muls, chosen: Sequence[Path]) -> None:
        self.muls, self.lmax, self.paths = muls, len(muls) - 1, list(chosen)
        self.places: dict[Path, slice] = {}
        self.stacks: list[dict[Path, int]] = [{} for _ in muls]
        self.widths = [0] * len(muls)
        self.weights = 0
        for path in self.paths:
            width = muls[path.l1]
            self.places[path] = slice(self.weights, self.weights + width)
            self.stacks[path.l3][path] = self.widths[path.l3]
            self.widths[path.l3] += width
            self.weights += width
        self.symbols = [Constant(path.symbol()) for path in self.paths]

    def __call__(
        self, features: Sequence[Tensor], harmonics: Tensor, weights: Tensor
    ) -> list[Tensor]:
        """The product of every edge.

        Args:
            features: (E, 2l + 1, mul) a degree.
            harmonics: (E, (lmax + 1)^2).
            weights: (E, weights), or (weights,) that all edges share.

        Returns:
            (E, 2 l3 + 1, widths[l3]) for each l3 that a path leads to.
        """
        stacked: list[list[Tensor]] = [[] for _ in self.muls]
        for path, symbol in zip(self.paths, self.symbols, strict=True):
            y = harmonics[:, path.l2**2 : (path.l2 + 1) ** 2]
            coupling = torch.einsum("eb,abc->eca", y, symbol.like(y))
            weight = weights[..., self.places[path]].unsqueeze(-2)
            stacked[path.l3].append((coupling @ features[path.l1]) * weight)
        return [torch.cat(pieces, 2) for pieces in stacked if pieces]
