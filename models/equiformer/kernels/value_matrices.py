"""Equiformer's values in an edge's frame: the paths to one l3 add up to one matrix for each m."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.equiformer.attention import Values
from neupol_cli.models.equiformer.kernels.edge_frame import coupling
from neupol_cli.models.equiformer.tensor_product import Path


def value_matrices(values: Values) -> list[Tensor]:
    """For each m (out, in): from l1 = m.. (and, for m > 0, from -m and m swapped) to l3 = m.."""
    blocks = _blocks(values)
    return [_matrix(values, m, blocks) for m in range(len(values.outs))]


def value_bias(values: Values) -> Tensor:
    """(out of m = 0,): Lin's on the scalars."""
    assert values.lin.bias is not None
    return functional.pad(values.lin.bias, (0, sum(values.outs[1:])))


def _blocks(values: Values) -> dict[Path, Tensor]:
    """(out, mul) a path: Lin's columns times the path's weights."""
    widths = [values.muls[path.l1] for path in values.paths]
    weights = dict(zip(values.paths, values.path_weights.split(widths), strict=True))
    blocks: dict[Path, Tensor] = {}
    for l3, matrix in enumerate(values.lin.weights):
        stacked = [path for path in values.paths if path.l3 == l3]
        columns = matrix.split([values.muls[path.l1] for path in stacked], 1)
        for path, block in zip(stacked, columns, strict=True):
            blocks[path] = block * weights[path]
    return blocks


def _matrix(values: Values, m: int, blocks: dict[Path, Tensor]) -> Tensor:
    parities = (True, False) if m else (True,)
    sources = [(l1, even) for even in parities for l1 in range(m, len(values.muls))]
    by_degree = [
        torch.cat([_added(values, l1, l3, m, even, blocks) for l1, even in sources], 1)
        for l3 in range(m, len(values.outs))
    ]
    return torch.cat(by_degree)


def _added(
    values: Values, l1: int, l3: int, m: int, even: bool, blocks: dict[Path, Tensor]
) -> Tensor:
    """(out of l3, mul of l1): the sum of the paths of one parity, with their constants."""
    total = values.path_weights.new_zeros(values.outs[l3], values.muls[l1])
    for path, block in blocks.items():
        if (path.l1, path.l3, path.even) == (l1, l3, even) and coupling(path, m):
            total = torch.add(total, block, alpha=coupling(path, m))
    return total
