"""The processes that torchrun starts: which of them this one is, and what they tell each other.

    torchrun --nproc-per-node 4 -m neupol_cli fit egnn qm9.h5 -o run

The first rank reads, writes and speaks; the others compute their share. All of them meet in every
exchange, in the same order. A rank that ends early takes the others with it: they raise `LostRank`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from neupol_cli.distributed import torchrun
from neupol_cli.distributed.rendezvous import agreed_name
from neupol_cli.errors import TemporaryError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

S = TypeVar("S")
T = TypeVar("T")
Sliced = TypeVar("Sliced", "Tensor", "np.ndarray")
Work = Callable[[Sequence[S]], list[T]]
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)  # until all ranks are there
EXCHANGE_TIMEOUT = timedelta(minutes=30)  # of a rank that lives, while it evaluates or saves
# Of ranks that serve: the first one may wait for its own input.
SERVING_TIMEOUT = timedelta(days=30)


class LostRank(TemporaryError):
    """Another rank of this run has ended. What this one holds is as it was before the exchange."""


class ProcessGroup:
    """This process, ``rank`` of ``world_size``. Alone, every exchange gives back what it was given.

    Raises:
        LostRank: in every exchange, where one of the others has ended.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.is_main = rank == 0
        self._awaited = True  # whether the others wait for what to do next

    def shard(self, items: Sliced) -> Sliced:
        """Every ``world_size``-th of a sequence or a tensor's rows: those of this rank."""
        return items[self.rank :: self.world_size]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; the same to the bit on each of them."""
        if self.world_size > 1:
            import torch.distributed as dist

            with _lost_ranks():
                dist.all_reduce(values)
        return values

    def all_reduce_max(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number; exchanged between CPUs, so no accelerator is waited for."""
        if self.world_size == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        values = torch.tensor(numbers, dtype=torch.float64)
        with _lost_ranks():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        total: list[float] = values.tolist()
        return total

    def broadcast(self, value: T | None) -> T:
        """What the first rank has for ``value``; the others' is not looked at."""
        if self.world_size > 1:
            import torch.distributed as dist

            values = [value]
            with _lost_ranks():
                dist.broadcast_object_list(values, src=0, device=_cpu())
            value = values[0]
        return value  # type: ignore[return-value]

    def broadcast_model(self, model: nn.Module) -> None:
        """Gives every rank the first one's weights and buffers, to the bit."""
        if self.world_size > 1:
            mine = {name: value.cpu() for name, value in model.state_dict().items()}
            model.load_state_dict(self.broadcast(mine if self.is_main else None))

    # One rank leads, the others serve.

    def map(self, work: Work[S, T], items: Sequence[S]) -> list[T]:
        """What ``work`` makes of each item, for the first rank, while the others `serve`.

        The items are dealt in turns: ``work`` is handed some of them, and returns as many results.
        """
        if self.world_size == 1:
            return work(items)
        self._awaited = False
        mine = self._scatter([items[k :: self.world_size] for k in range(self.world_size)])
        gathered = self._gather(work(mine))
        self._awaited = True
        return [gathered[k % self.world_size][k // self.world_size] for k in range(len(items))]

    def serve(self, work: Work[S, T]) -> None:
        """Does ``work`` of what the first rank hands out until it has no more."""
        items: Sequence[S] | None
        while (items := self._scatter(None)) is not None:
            self._gather(work(items) if items else [])

    @contextmanager
    def leading(self) -> Iterator[None]:
        """At the end, well or not, the others stop serving."""
        try:
            yield
        except BaseException:
            with suppress(LostRank):  # the reason why it ends is told, not what came of it
                self._dismiss()
            raise
        self._dismiss()

    def _dismiss(self) -> None:
        if self.world_size > 1 and self._awaited:
            self._scatter([None] * self.world_size)

    def _scatter(self, hands: list[S] | None) -> S:
        """This rank's of as many things as there are ranks, which the first one gives."""
        import torch.distributed as dist

        mine: list[S | None] = [None]
        with _lost_ranks():
            dist.scatter_object_list(mine, hands, src=0)
        return mine[0]  # type: ignore[return-value]  # each got one by now

    def _gather(self, results: list[T]) -> list[list[T]]:
        """What each rank has, in the first one; nothing in the others."""
        import torch.distributed as dist

        gathered: list[list[T]] | None = (
            [[] for _ in range(self.world_size)] if self.is_main else None
        )
        with _lost_ranks():
            dist.gather_object(results, gathered, dst=0)
        return gathered or []


ALONE = ProcessGroup()


def started() -> ProcessGroup:
    """Which process this is, as torchrun says; alone where nobody does.

    Raises:
        UsageError.
    """
    rank, world_size = torchrun.rank_and_size()
    return ProcessGroup(rank, world_size) if world_size > 1 else ALONE


@contextmanager
def joined(device: str, silence: timedelta = EXCHANGE_TIMEOUT) -> Iterator[ProcessGroup]:
    """This process among those of torchrun, connected for as long as the block lasts.

    Args:
        device: where this rank will compute, as `devices.device_named` takes it.
        silence: how long another may take to its next exchange.

    Raises:
        UsageError: the environment is not torchrun's.
        LostRank: the others do not come.
    """
    group = started()
    if group.world_size == 1:
        yield group
        return
    import torch
    import torch.distributed as dist

    from neupol_cli.devices import device_named

    where, backend = device_named(device), "gloo"
    if where.type == "cuda":
        torch.cuda.set_device(where)
        backend = "cpu:gloo,cuda:nccl"
    with _lost_ranks(), _default_signals():
        store, rank, world_size = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        name = agreed_name(store, rank, world_size, RENDEZVOUS_TIMEOUT.total_seconds())
        store = dist.PrefixStore(name, store)
        dist.init_process_group(backend, None, silence, world_size, rank, store)
    try:
        yield group
    finally:
        dist.destroy_process_group()


@contextmanager
def _default_signals() -> Iterator[None]:
    """While it waits for the others, signals end this process: Python's handlers would wait too.

    There is nothing yet to tidy up.
    """
    numbers = signal.SIGTERM, signal.SIGINT
    earlier = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Raises LostRank for what an exchange says when one of the ranks is gone."""
    try:
        yield
    except TimeoutError as error:
        raise LostRank(str(error)) from error
    except RuntimeError as error:
        reason = re.sub(r"\[[^]]*\]:?\s*", "", str(error)).split("\n")[0].split(". ")[0]
        raise LostRank(f"another process of this run has ended ({reason})") from error


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")
