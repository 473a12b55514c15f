"""What is averaged while a run goes on: the weights, and the losses between two looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Exponential running average of the weights (EMA), young averages forgetting faster."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters]

    def update(self, step: int) -> None:
        """Takes in the weights after step number ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [p.detach() for p in self.parameters]
        torch._foreach_lerp_(self.values, live, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages take the place of the weights; by exchange of memory, so exactly undone."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for k, parameter in enumerate(self.parameters):
            parameter.data, self.values[k] = self.values[k], parameter.data


class Window:
    """Means of logged scalars since the last look, summed on the device without waiting for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(0)
        self.count = 0

    def add(self, parts: dict[str, Tensor]) -> None:
        values = torch.stack([value.detach() for value in parts.values()]).double()
        if not self.count:
            self.names, self.sums = list(parts), torch.zeros_like(values)
        self.sums += values
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, by name; the window is empty afterwards. Waits for the device."""
        means = (self.sums / max(self.count, 1)).tolist()
        self.count = 0
        return dict(zip(self.names, means, strict=True))
