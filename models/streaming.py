"""Structures whose edges do not fit in memory together: a step goes through ranges of receivers.

    s_i'  follows from the edges that i receives, and from the states of i and their senders

So it is with every step of every network here but DimeNet++, whose state is that of edges. A range
sees the points that it reads and no others; its edges and messages are made, used and dropped, and
made once more where a derivative is asked for. Memory is that of states, O(points), and work is
what it was. Ranges wait for nobody, so that several threads share one structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neupol_cli.models.batching import PAIRS, RECORD
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.nn.graph import Edges, NeighbourList
from neupol_cli.models.workers import in_order

EDGES = 1 << 18  # of a range, about

Step = Callable[[Tensor, Edges], Tensor]
# What becomes of derivatives by positions: "asked for" ones need nothing that ranges drop, "learnt"
# ones and those by weights do.
_derivatives: ContextVar[str] = ContextVar("derivatives", default="")


@contextmanager
def by_positions(learnt: bool) -> Iterator[None]:
    """Says of what is evaluated inside that it will be differentiated by positions, and what then.

    Args:
        learnt: the derivative will be differentiated again, by weights; else nobody asks for more.
    """
    before = _derivatives.set("learnt" if learnt else "asked for")
    try:
        yield
    finally:
        _derivatives.reset(before)


def forces_are_learnt() -> bool:
    """Whether derivatives of derivatives follow."""
    return _derivatives.get() == "learnt"


def is_large(edges: int) -> bool:
    """Whether so many edges are made a range at a time, as more than a batch holds."""
    if not torch.is_grad_enabled():
        return edges > PAIRS
    return _derivatives.get() == "asked for" and edges > PAIRS // RECORD


class Recomputed(torch.autograd.Function):
    """``work(*inputs)`` of which nothing is kept: it is worked out again for its derivatives.

    Derivatives by the inputs, once; see :func:`by_positions`.
    """

    @staticmethod
    def forward(ctx: Context, work: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*inputs)
        with torch.no_grad():
            return work(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [None if x is None else x.detach() for x in ctx.saved_tensors]
        wanted = [x for x, need in zip(inputs, needed, strict=True) if x is not None and need]
        with torch.enable_grad():
            for x in wanted:
                x.requires_grad_()
            rows = ctx.work(*inputs)
        slopes = iter(torch.autograd.grad(rows, wanted, gradient, allow_unused=True))
        return None, *(next(slopes) if need else None for need in needed)


class Part(NamedTuple):
    """A range of receivers.

    Attributes:
        seen: (S,) the points that they and their senders are, ascending.
        receivers: (R,) which of these they are.
        listed: their edges among the S points.
        first_moving: the first of these whose receiver can move.
    """

    seen: Tensor
    receivers: Tensor
    listed: NeighbourList
    first_moving: int


@dataclass(frozen=True)
class EdgeRanges:
    """The edges among the points of one structure, a range of receivers at a time.

    Attributes:
        points: (P, 3) Angstrom.
        first_moving: points from here on can move.
        listed: who sees whom; None joins all pairs.
        cell: (1, 3, 3) lattice vectors as rows, Angstrom; None if it is not periodic.
        softening: Angstrom; see Edges.
        first: of the receivers; those before it keep their states.
    """

    points: Tensor
    first_moving: int
    listed: NeighbourList | None = None
    cell: Tensor | None = None
    softening: float = 0.0
    first: int = 0

    def apply(self, step: Step, state: Tensor) -> Tensor:
        """What ``step(state, edges)`` would be with all edges: (P, ...) -> (P, dim).

        Args:
            step: a layer or an embedding of a network.
            state: (P, ...) what it reads of points.
        """
        parts = in_order(lambda ends: self._rows(step, state, *ends), self._ranges())
        rows = torch.cat(list(parts))
        return rows if self.first == 0 else torch.cat((state[: self.first], rows))

    def received_by_moving(self, points: int) -> EdgeRanges:
        """The same for those of the points that can move."""
        return replace(self, first=self.first_moving)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """First and last receivers (the latter not included), with about EDGES edges each."""
        start = self.first
        while start < len(self.points):
            stop = self._end(start)
            yield start, stop
            start = stop

    def _end(self, start: int) -> int:
        count = len(self.points)
        if self.listed is None:
            return min(count, start + max(1, EDGES // count))
        receivers = self.listed.receivers
        last = int(torch.searchsorted(receivers, start)) + EDGES
        return count if last >= len(receivers) else max(start + 1, int(receivers[last]))

    def _rows(self, step: Step, state: Tensor, start: int, stop: int) -> Tensor:
        """(stop - start, dim) what a step makes of these receivers."""
        part = self._part(start, stop)

        def work(state: Tensor, points: Tensor, cell: Tensor | None) -> Tensor:
            places = points.index_select(0, part.seen)
            batch = torch.zeros_like(part.seen)
            edges = Edges.of(part.listed, places, batch, cell, self.softening)
            edges.first_moving = part.first_moving
            return step(state.index_select(0, part.seen), edges).index_select(0, part.receivers)

        inputs = (state, self.points, self.cell)
        if not torch.is_grad_enabled():
            return work(*inputs)
        rows: Tensor = Recomputed.apply(work, *inputs)
        return rows

    def _part(self, start: int, stop: int) -> Part:
        receivers = torch.arange(start, stop, device=self.points.device)
        if self.listed is None:
            seen = torch.arange(len(self.points), device=self.points.device)
            senders = seen[:-1] + (seen[:-1] >= receivers[:, None])  # all but the receiver itself
            listed = NeighbourList(receivers.repeat_interleave(len(seen) - 1), senders.reshape(-1))
        else:
            listed = _between(self.listed, start, stop)
            seen = torch.cat((receivers, listed.senders)).unique()
        first_moving = int(torch.searchsorted(listed.receivers, self.first_moving))
        renamed = NeighbourList(
            torch.searchsorted(seen, listed.receivers),
            torch.searchsorted(seen, listed.senders),
            listed.shifts,
        )
        return Part(seen, torch.searchsorted(seen, receivers), renamed, first_moving)


def _between(listed: NeighbourList, start: int, stop: int) -> NeighbourList:
    """The edges that the points from start to stop receive."""
    ends = torch.tensor([start, stop], device=listed.receivers.device)
    rows = slice(*torch.searchsorted(listed.receivers, ends).tolist())
    shifts = None if listed.shifts is None else listed.shifts[rows]
    return NeighbourList(listed.receivers[rows], listed.senders[rows], shifts)
