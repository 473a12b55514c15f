"""All that probes read of some structures, once their atoms are encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.charge3net.irreps import EVEN_SCALAR
from neupol_cli.models.charge3net.linear import Features
from neupol_cli.models.charge3net.radial import RadialTable
from neupol_cli.models.nn.graph import Graph


@dataclass(frozen=True)
class AtomFeatures:
    """What a structure's atoms send to its probes.

    Attributes:
        points: the atoms, and behind them their movable points if there are any.
        types: (A,) index of each point's element; movable points count on from the elements.
        layers: every layer's features, {(l, p): (A, 2l + 1, channels)}; late points have none.
        sources: for every l, (A, 2l + 1, columns): what the harmonics of a probe edge multiply.
        table: R(r) for predictions; None where the functions are evaluated.
        path: x~_0 .. x~_T of the movable points, each (A, 3), if there are any.
    """

    points: Graph
    types: Tensor
    layers: list[Features]
    sources: list[Tensor]
    table: RadialTable | None = None
    path: tuple[Tensor, ...] = ()

    @property
    def invariants(self) -> Tensor:
        """(A, channels) the last layer's scalars."""
        return self._scalars(self.layers[-1])

    @property
    def layer_invariants(self) -> Tensor:
        """(A, channels of all layers) every layer's scalars."""
        return torch.cat([self._scalars(layer) for layer in self.layers], 1)

    def _scalars(self, layer: Features) -> Tensor:
        """(A, channels) a layer's scalars; a late point's are its atom's."""
        own = layer[EVEN_SCALAR][:, 0]
        return own.repeat(self.types.shape[0] // own.shape[0], 1)
