"""Wigner 3j symbols, read from a table.

e3nn makes them, but importing it takes longer than predicting a molecule. The table holds its
symbols up to l = 6; beyond that e3nn itself is asked.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LMAX = 6
TABLE = Path(__file__).parent / "wigner_3j.npz"  # "l1 l2 l3" ascending, without blanks -> symbol


@lru_cache(maxsize=512)
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """The real Wigner 3j symbol (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), sum of squares 1, float64.

    Exchanging two of its columns multiplies it by (-1)^(l1 + l2 + l3).
    """
    degrees = (l1, l2, l3)
    if max(degrees) > LMAX:
        return _from_e3nn(l1, l2, l3)
    ascending = sorted(range(3), key=degrees.__getitem__)
    with np.load(TABLE) as table:
        symbol = table["".join(str(degrees[place]) for place in ascending)]
    sign = (-1) ** (sum(degrees) * _exchanges(ascending))
    return torch.from_numpy(sign * symbol.transpose(np.argsort(ascending))).contiguous()


def _exchanges(order: list[int]) -> int:
    """How many pairs of an order of 0, 1, 2 stand the wrong way round."""
    return sum(order[i] > order[j] for i in range(3) for j in range(i + 1, 3))


def _from_e3nn(l1: int, l2: int, l3: int) -> Tensor:
    from e3nn.o3 import wigner_3j as symbol

    return symbol(l1, l2, l3, dtype=torch.float64).clone()
