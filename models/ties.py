"""Targets that are made of others: gap = lumo - homo, and U, H, G little more than U0.

    y_k = s_k raw_k + b_k + sum_j c_kj (y_j - b_j)

with s and b a target's scale and what it would be if the network said zero. Nearly the same number
is learnt once, and only the difference to it on its own; of one that is nothing besides its parts
the network's number is not read, and b_k is sum_j c_kj b_j.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from neupol_cli.errors import UsageError
from neupol_cli.models.targets import target


def tied_targets(names: Collection[str]) -> list[str]:
    """Those targets all of whose parts are among them."""
    return [name for name in names if (parts := target(name).parts) and _has(names, parts)]


def _has(names: Collection[str], parts: Sequence[tuple[str, float]]) -> bool:
    return all(part in names for part, _ in parts)


def tie_matrix(tied: Sequence[str], columns: Mapping[str, slice]) -> Tensor:
    """(T, T) float64 c, with ones on the diagonal of what the network says on its own.

    Args:
        tied: targets that are made of others.
        columns: target -> its outputs, in their order.

    Raises:
        UsageError: one that is not made of others, or whose parts are not there.
    """
    size = max((place.stop for place in columns.values()), default=0)
    matrix = torch.eye(size, dtype=torch.float64)
    for name in tied:
        record = target(name)
        if not record.parts or not _has(columns, (*record.parts, (name, 1.0))):
            raise UsageError(f"tied names {name}, which cannot be made of the other targets")
        row = columns[name].start
        matrix[row, row] = 0.0 if record.whole else 1.0
        for part, factor in record.parts:
            matrix[row, columns[part].start] = factor
    return matrix


def mixed(raw: Tensor, matrix: Tensor, scale: Tensor) -> Tensor:
    """(B, T) what the network says, in units of each target's scale, with ties.

    Args:
        raw: (B, T) what it says before.
        matrix: (T, T) of :func:`tie_matrix`.
        scale: (T,).
    """
    return raw @ (matrix * scale / scale[:, None]).t().to(raw.dtype)
