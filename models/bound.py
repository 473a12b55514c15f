"""Answers that cannot be negative, whatever the network says.

    y   the answer in its unit: scale times the network's number, mean and references added
    w   0.01 scale
    b   w log(1 + exp(y / w))

Behind sums over atoms and units, since only what comes of them has a sign. b is y itself from 20 w
on, a fifth of the training labels' spread above zero; at y = 0 it is 0.007 scale, and never less
than nothing. Its slope goes from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.errors import UsageError

BEND = 0.01  # w, in scales
STRAIGHT = 20.0  # in w: beyond it the two differ by less than a part in 10^10


def bounded(values: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """b in some columns.

    Args:
        values: (B, T) float64 y.
        scale: (T,) positive.
        positive: (T,) bool, the columns.
    """
    width = BEND * scale
    bent = width * functional.softplus(values / width)
    return torch.where(positive & (values < STRAIGHT * width), bent, values)


def columns_of(names: Sequence[str], columns: Mapping[str, slice]) -> Tensor:
    """(T,) bool, which outputs are those of some targets.

    Args:
        names: the targets.
        columns: target -> its outputs, in their order.

    Raises:
        UsageError: one that is not there, or a vector.
    """
    sizes = {name: place.stop - place.start for name, place in columns.items()}
    for name in names:
        if sizes.get(name) != 1:
            raise UsageError(f"positive names {name}, which is no number among the targets")
    return torch.tensor([name in names for name, size in sizes.items() for _ in range(size)])
