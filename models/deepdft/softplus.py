"""The invariant network's activation, and that of an edge's two ends, in plain PyTorch.

    ssp(x) = softplus(x) - ln 2

kernels/softplus.py has faster versions, which the tests hold against these.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional


def ssp(x: Tensor) -> Tensor:
    """softplus(x) - ln 2."""
    return functional.softplus(x) - math.log(2)


def ssp_of_ends(own: Tensor, other: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
    """ssp(own_j + other_i) of every edge.

    Args:
        own: (A, n) of the senders.
        other: (R, n) of the receivers.
        senders, receivers: (E,) indices.

    Returns:
        (E, n).
    """
    return ssp(own.index_select(0, senders) + other.index_select(0, receivers))
