"""What a training loop asks of a task: a model, losses of batches, errors on a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.models.base import FactsRecord, Model


class Task(Protocol):
    """What there is to learn. Everything about data and losses is behind this.

    Attributes:
        model: the network, with a ``config`` dataclass.
        size: how many training items there are.
        grain: how many of them are worth a core of a CPU.
        metric: the key of `evaluate` that the best checkpoint minimises.
        units: the unit of each key of `evaluate`.
        meta: what the checkpoint's header says about targets and data (plain JSON).
    """

    @property
    def model(self) -> Model: ...

    size: int
    grain: int
    metric: str
    units: dict[str, str]
    meta: dict[str, object]

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, of the training items ``indices`` (b,), and scalars to log.

        The indices are on the host, whatever the model is on: what a batch holds is known there.
        Every random choice is drawn from ``generator``, which is on the model's device.
        ``whole``, if the items are a piece of a batch, are all of that: what is answered is the
        piece's part of their loss, and the parts of all pieces add up to it.
        """

    def evaluate(
        self, split: str, model: Model, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        """Errors on ``valid`` or ``test``; empty if there is no such split.

        ``model`` is in eval mode. ``check()`` is to be called between batches: it raises where the
        run was asked to stop. Each of the ``group`` looks at its share and has the errors of all.
        """

    def domain(self, check: Callable[[], None]) -> FactsRecord | None:
        """What the training structures were like; None where they are no atoms.

        ``check``: as for :meth:`evaluate`.
        """

    def calibrate(self, model: Model, check: Callable[[], None]) -> dict[str, Tensor]:
        """What tells, structure by structure, how far the trained ``model`` may be off.

        Tensors for its checkpoint; none where the task has no such thing. ``model`` and
        ``check``: as for :meth:`evaluate`.
        """
