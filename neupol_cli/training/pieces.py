"""A batch in pieces, which the cores of a CPU differentiate at the same time.

Each piece draws from a generator of its own, and gradients are summed in the pieces' order: what
comes out does not depend on who worked on which. Copies of this process work (models/processes.py):
they read weights from memory that is shared with them, and leave gradients in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models import processes, workers
from neupol_cli.models.nn.dropout import drawn_from
from neupol_cli.training.epoch_sampler import mixed
from neupol_cli.training.task import Task

UNREACHED = "nothing that is left to learn reaches the loss: leave some of --freeze out"


def check_reached(loss: Tensor) -> None:
    """UsageError where no parameter that learns has a part in the loss."""
    if not loss.requires_grad:
        raise UsageError(UNREACHED)


@dataclass(frozen=True)
class Piece:
    """Some of a batch's items.

    Attributes:
        number: of this one among the batch's.
        seeds: of what is drawn in this step.
        items: (b,) its own indices.
        batch: (B,) those of the whole batch.
    """

    number: int
    seeds: tuple[int, ...]
    items: Tensor
    batch: Tensor


# A piece's loss, what is logged of it, and which parameters it has gradients of.
Done = tuple[Tensor, dict[str, Tensor], list[bool]]


class Pieces:
    """Differentiates batches piece by piece, on a CPU.

    Args:
        task: whose loss it is.
        parameters: all of the model's that learn.
        count: the most pieces that a batch has.
    """

    def __init__(self, task: Task, parameters: Sequence[nn.Parameter], count: int) -> None:
        self.task, self.parameters = task, parameters
        self.at_once = min(count, workers.workers())
        # Where each piece that is not summed yet leaves its gradients, and where the sum goes.
        rows = 1 if self.at_once == 1 else min(count, workers.IN_FLIGHT * self.at_once)
        self.rows = [[processes.shared_room(p) for p in parameters] for _ in range(rows)]
        self.total = [torch.empty_like(p, requires_grad=False) for p in parameters]
        self.in_order: Callable[[Iterable[Piece]], Iterator[Done]] = partial(
            workers.in_order, self.done, at_once=self.at_once
        )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While it lasts, copies of this process do the work where it may be forked; of what they
        read, nothing changes but parameters, in place."""
        for parameter in self.parameters:
            parameter.data = processes.shared(parameter.data)
        threads = self.in_order
        with workers.kept_apart(self.done, self.at_once) as self.in_order:
            try:
                yield
            finally:
                self.in_order = threads

    def summed(
        self, seeds: tuple[int, ...], batch: Tensor, pieces: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts; gradients where the optimiser looks for them."""
        numbered = (Piece(k, seeds, items, batch) for k, items in enumerate(pieces))
        losses = []
        for number, (loss, parts, reached) in enumerate(self.in_order(numbered)):
            losses.append({"": loss, **parts})
            self._add(self.rows[number % len(self.rows)], reached)
        total = {name: torch.stack([one[name] for one in losses]).sum() for name in losses[0]}
        return total.pop(""), total

    def done(self, piece: Piece) -> Done:
        """One piece's part of a batch's loss; its gradients are in its row."""
        generator = torch.Generator()
        generator.manual_seed(mixed(*piece.seeds, piece.number))
        with drawn_from(generator):
            loss, parts = self.task.loss(piece.items, generator, piece.batch)
            check_reached(loss)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        there = [(k, gradient) for k, gradient in enumerate(gradients) if gradient is not None]
        row = self.rows[piece.number % len(self.rows)]
        torch._foreach_copy_([row[k] for k, _ in there], [gradient for _, gradient in there])
        logged = {name: part.detach() for name, part in parts.items()}
        return loss.detach(), logged, [gradient is not None for gradient in gradients]

    def _add(self, row: Sequence[Tensor], reached: Sequence[bool]) -> None:
        """Adds a piece's gradients to those of the pieces before it."""
        known = [k for k, there in enumerate(reached) if there]
        begun = [k for k in known if self.parameters[k].grad is not None]
        if begun:
            torch._foreach_add_([self.total[k] for k in begun], [row[k] for k in begun])
        for k in known:
            if self.parameters[k].grad is None:
                self.parameters[k].grad = self.total[k].copy_(row[k])
