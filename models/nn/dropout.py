"""Dropout whose random numbers come from a generator of the thread that asks for them.

Pieces of a batch are differentiated in any order, by threads or copies of the process
(training/pieces.py). PyTorch's own dropout draws from one generator of the process, in that order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional


class _Here(threading.local):
    generator: torch.Generator | None = None


_here = _Here()


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Within, this thread's dropout draws from ``generator``; without, from PyTorch's own."""
    _here.generator = generator
    try:
        yield
    finally:
        _here.generator = None


def dropout(x: Tensor, probability: float) -> Tensor:
    """``x`` with every number zero with ``probability``, else divided by 1 - ``probability``."""
    if not probability or _here.generator is None:
        return functional.dropout(x, probability, probability > 0)
    kept = torch.empty_like(x).bernoulli_(1 - probability, generator=_here.generator)
    return x * (kept / (1 - probability))
