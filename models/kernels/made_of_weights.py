"""What a prediction makes of a network's weights, once for all structures: tables of functions."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")

# Threads that predict with one network make it once. No attribute: networks are copied.
_MAKING = Lock()


class MadeOfWeights(Generic[Made]):
    """Something that is made of some weights, and made anew when they change."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, Made] | None = None

    def get(self, weights: Tensor, make: Callable[[], Made]) -> Made:
        """What belongs to these weights.

        Args:
            weights: (N,) all that it is made of; compared by value, since optimisers and averages
                change weights without a trace.
            make: makes it, if it is not there yet.
        """
        made = self._made_of(weights)
        if made is None:
            with _MAKING:
                made = self._made_of(weights)
                if made is None:
                    made = make()
                    self._known = (weights, made)  # in one go: other threads may look
        return made

    def _made_of(self, weights: Tensor) -> Made | None:
        known = self._known
        return known[1] if known is not None and _same(known[0], weights) else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in place, type and every number."""
    alike = (one.device, one.dtype, one.shape) == (other.device, other.dtype, other.shape)
    return alike and torch.equal(one, other)
