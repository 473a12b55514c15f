"""The dense layers of one of DimeNet's blocks as chains for edge_layers.py."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from torch import Tensor, nn

from neupol_cli.models.dimenet.kernels.edge_layers import Layer, layered
from neupol_cli.models.nn.linear import Linear

M, T, FIRST = 0, 1, 2  # numbers of y: messages, what came to the edges, the first layer's


class Edgewise(Protocol):
    """What an interaction does with each edge by itself."""

    def offered(self, m: Tensor, radial: Tensor) -> Tensor:
        """(E, H) messages, (E, N) rbf -> (E, T)."""

    def answered(self, m: Tensor, t: Tensor) -> Tensor:
        """(E, H) messages, (E, T) -> (E, H)."""


class Residual(Protocol):
    """One of a block's residual layers."""

    first: Linear
    second: Linear


class Block(Edgewise, Protocol):
    """An interaction with its layers, as network.py names them."""

    radial_in: Linear
    radial_out: Linear
    own: Linear
    passed: Linear
    down: Linear
    up: Linear
    before: nn.Sequential
    skip: Linear
    after: nn.Sequential


class BlockLayers:
    """The two methods of a block by compiled loops."""

    def __init__(self, block: Block, loops: ctypes.CDLL) -> None:
        self.block, self.loops = block, loops

    def offered(self, m: Tensor, radial: Tensor) -> Tensor:
        """silu(W (silu(L m) * C rbf)), C = W W."""
        b = self.block
        factor = b.radial_out.weight @ b.radial_in.weight
        passed = Layer(M, -1, b.passed.weight, b.passed.bias, factor)
        return layered(self.loops, [passed, Layer(FIRST, -1, b.down.weight)], (m, None, radial))

    def answered(self, m: Tensor, t: Tensor) -> Tensor:
        """m + silu(L Res(silu(L m) + silu(W t))), then Res again."""
        b = self.block
        layers = [Layer(T, -1, b.up.weight), Layer(M, FIRST, b.own.weight, b.own.bias)]
        layers += _residuals(b.before, FIRST + len(layers) - 1)
        layers += [Layer(FIRST + len(layers) - 1, M, b.skip.weight, b.skip.bias)]
        layers += _residuals(b.after, FIRST + len(layers) - 1)
        return layered(self.loops, layers, (m, t, None))


def _residuals(residuals: nn.Sequential, g: int) -> Iterator[Layer]:
    """g + silu(L silu(L g)) one after the other, the first of them on y_g."""
    for residual in cast(Iterable[Residual], residuals):
        first, second = residual.first, residual.second
        yield Layer(g, -1, first.weight, first.bias)
        yield Layer(g + 1, g, second.weight, second.bias)
        g += 2
