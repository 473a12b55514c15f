"""What PaiNN's updates and a probe's gate do between their matrix products, in plain PyTorch.

    meet     |V|, <U, V>
    change   s += p + q <U, V>,   v += t U
    gate     (gs, gv) = sigmoid(x):   s = gs s + (1 - gs) ds,  v = gv v + (1 - gv) dv

See painn.py. kernels/updates.py has faster versions, which the tests hold against these.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lengths(v: Tensor, soft: float) -> Tensor:
    """(P, 3, H) -> (P, H) sqrt(v^2 + soft^2) - soft; at zero vectors the gradient is zero."""
    squared = v.square().sum(1) + soft**2
    apart = squared > 0
    return torch.where(apart, squared, 1.0).sqrt() * apart - soft


def meet(s: Tensor, both: Tensor, soft: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the mixing network reads, and what its answer multiplies.

    Args:
        s: (P, H) scalars.
        both: (P, 3, 2 H) U and V.
        soft: see :func:`lengths`.

    Returns:
        (P, 2 H) s and |V|; (P, H) <U, V>; (P, 3, H) U.
    """
    left, right = both.chunk(2, 2)
    return torch.cat((s, lengths(right, soft)), 1), (left * right).sum(1), left


def change(
    s: Tensor, v: Tensor, left: Tensor, products: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor]:
    """The next scalars and vectors.

    Args:
        s, v: (P, H), (P, 3, H) as they were.
        left, products: (P, 3, H) U and (P, H) <U, V>.
        mixed: (P, 3 H) p, q, t.
    """
    p, q, t = mixed.chunk(3, 1)
    return s + p + q * products, v + t[:, None] * left


def gate(
    x: Tensor, ds: Tensor, dv: Tensor, s: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What a probe keeps and what it takes over; s (P, H) and v (P, 3, H) None for zeros.

    Args:
        x: (P, 2 H) gates before their sigmoid.
        ds, dv: (P, H), (P, 3, H) what is new.
        s, v: what was there.
    """
    gs, gv = torch.sigmoid(x).chunk(2, 1)
    s_next, v_next = (1 - gs) * ds, (1 - gv)[:, None] * dv
    if s is None or v is None:
        return s_next, v_next
    return s_next + gs * s, v_next + gv[:, None] * v
