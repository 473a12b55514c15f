"""The equivariant transformer's state, its two layouts, and what happens to it at a point.

    w = V v1;   s += <w1, w2> o2 + o3,   V += w3 o1 + Y     (Tholke and de Fabritiis 2022, 11-12)

Between layers a state is (P, 4 H): H scalars, then H vectors (H, 3), as irreps have them. Matrix
products want vectors as (3, H). Plain PyTorch; kernels/point_steps.py makes one pass over points
of each function.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unpacked(state: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 4 H) -> scalars (P, H), vectors (P, 3, H)."""
    hidden = state.shape[1] // 4
    s, v = state.split((hidden, 3 * hidden), 1)
    return s, v.unflatten(1, (hidden, 3)).transpose(1, 2).contiguous()


def packed(s: Tensor, v: Tensor) -> Tensor:
    """Scalars (P, H), vectors (P, 3, H) -> (P, 4 H)."""
    return torch.cat((s, v.transpose(1, 2).flatten(1)), 1)


def scaled(v: Tensor, f: Tensor) -> Tensor:
    """(P, 3, H) vectors times (P, H) factors."""
    return v * f[:, None]


def updated(state: Tensor, o: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The next state (P, 4 H).

    Args:
        state: (P, 4 H) s and V.
        o: (P, 3 H) o1, o2, o3.
        w: (P, 3, 3 H) w1, w2, w3 of each component.
        y: (P, 3, H) Y.
    """
    o1, o2, o3 = o.chunk(3, 1)
    w1, w2, w3 = w.chunk(3, 2)
    return state + packed((w1 * w2).sum(1) * o2 + o3, w3 * o1[:, None] + y)
