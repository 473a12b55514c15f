"""A network and a task that train in milliseconds, and break where they are told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.models.nn.dropout import dropout


@dataclass(frozen=True)
class Config:
    width: int = 6


class Toy(nn.Module):
    """A small network with dropout, so that its steps need random numbers of torch's own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(3, config.width, dtype=torch.float64)
        self.second = nn.Linear(config.width, 1, dtype=torch.float64)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))  # has no gradient, ever

    def forward(self, x: Tensor) -> Tensor:
        h = dropout(torch.tanh(self.first(x)), 0.2 if self.training else 0.0)
        return self.second(h)[:, 0]


class ToyTask:
    """Learns a sum with noise drawn by the step's generator; may break where it is told to."""

    def __init__(self, size: int = 20) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = Toy(Config())
        self.size, self.metric, self.grain = size, "y", 100
        self.units, self.meta = {"y": "eV"}, {"targets": {"y": "eV"}}
        self.x = torch.randn(2 * size, 3, dtype=torch.float64)
        self.trouble: Callable[[Tensor], Tensor] = lambda loss: loss
        self.scores: list[float] = []

    def domain(self, check: Callable[[], None]) -> None:
        """It has no atoms."""

    def calibrate(self, model: nn.Module, check: Callable[[], None]) -> dict[str, Tensor]:
        """And does not know how far off it is."""
        return {}

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        share = 1.0 if whole is None else len(indices) / len(whole)
        noise = torch.randn(len(indices), generator=generator, dtype=torch.float64)
        x = self.x[indices]
        loss = (self.model(x) - x.sum(1) - 0.01 * noise).abs().mean() * share
        return self.trouble(loss), {"twice": 2 * loss}

    def evaluate(
        self, split: str, model: nn.Module, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        check()
        assert not model.training
        if self.scores:
            return {"y": self.scores.pop(0)}
        x = self.x[self.size :]
        with torch.no_grad():
            return {"y": float((model(x) - x.sum(1)).abs().mean())}
