"""Which numbers of a feature and of its path weights make which of the tensor product, in a frame.

In the frame of edge_frame.py a path is one constant a component, and most components are zero: the
others are grouped by l3 and m, so that each group is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.equiformer.kernels.edge_frame import coupling
from neupol_cli.models.equiformer.so3 import Muls
from neupol_cli.models.equiformer.tensor_product import Path, TensorProduct, paths_read
from neupol_cli.models.nn.harmonics import Constant


@dataclass(frozen=True)
class Term:
    """Part of D: a component of l1, times the path weights at ``place``."""

    path: Path
    place: slice

    @property
    def width(self) -> int:
        """Its channels."""
        return self.place.stop - self.place.start


class Group:
    """Components m and -m of D_l3: the terms that are not zero, side by side, K channels in all.

    Attributes:
        l3, m: which components.
        terms: what they are made of.
        columns: (K,) the rows of Lin's input of degree l3 that these are.
        couplings: (K,) the constants of the paths.
    """

    def __init__(self, l3: int, m: int, terms: list[Term], stack: dict[Path, int]) -> None:
        self.l3, self.m, self.terms = l3, m, terms
        self.width = sum(term.width for term in terms)
        columns = torch.cat([torch.arange(t.width) + stack[t.path] for t in terms])
        self.columns = Constant(columns)
        widths = torch.tensor([term.width for term in terms])
        couplings = torch.tensor([coupling(t.path, m) for t in terms], dtype=torch.float64)
        self.couplings = Constant(couplings.repeat_interleave(widths))


class FrameInstructions(TensorProduct):
    """The tensor product's instructions in the edges' frames: what of M and w makes what of D.

    Args:
        muls: of M and G.
        orders: components -m..m with m < orders are made. If only scalars are read of the values,
            that is m = 0: what lies across the edge has no part in G . Y.
    """

    def __init__(self, muls: Muls, orders: int) -> None:
        super().__init__(muls, paths_read(muls, orders))
        self.groups = [
            Group(l3, m, self._terms(l3, m), self.stacks[l3])
            for l3 in range(self.lmax + 1)
            for m in range(min(l3 + 1, orders))
        ]
        self.index = {(group.l3, group.m): k for k, group in enumerate(self.groups)}

    def _terms(self, l3: int, m: int) -> list[Term]:
        return [
            Term(path, self.places[path])
            for path in self.paths
            if path.l3 == l3 and coupling(path, m)
        ]

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Lin's weights (out, in) a degree -> (out, K) a group, the couplings in them."""
        return [
            weights[group.l3].index_select(1, group.columns.beside(weights[0]))
            * group.couplings.like(weights[0])
            for group in self.groups
        ]
