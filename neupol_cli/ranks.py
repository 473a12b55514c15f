"""The processes that torchrun starts: which of them this one is, and what they tell each other.

    torchrun --nproc-per-node 4 -m neupol_cli fit egnn qm9.h5 -o run

The first rank reads, writes and speaks; the others compute their share. All of them meet in every
exchange, in the same order. A rank that ends before takes the others with it: each raises `Lost`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from neupol_cli import launch
from neupol_cli.errors import TryAgain
from neupol_cli.meeting import agreed_name

if TYPE_CHECKING:
    from torch import Tensor, nn

S = TypeVar("S")
T = TypeVar("T")
Work = Callable[[Sequence[S]], list[T]]
ARRIVAL = timedelta(minutes=5)  # until all ranks are there
SILENCE = timedelta(minutes=30)  # of a rank that lives, while it evaluates or saves
IDLENESS = timedelta(days=30)  # of ranks that serve: the first one may wait for its own input


class Lost(TryAgain):
    """Another rank of this run has ended. What this one holds is as it was before the exchange."""


class Ranks:
    """This process, ``rank`` of ``world``. Alone, every exchange gives back what it was given.

    Errors of every exchange: Lost.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self.first = rank == 0
        self._awaited = True  # whether the others wait for what to do next

    def share(self, items: Any) -> Any:
        """Every ``world``-th of a sequence or a tensor's rows: those of this rank."""
        return items[self.rank :: self.world]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; the same to the bit on each of them."""
        if self.world > 1:
            import torch.distributed as dist

            with _heard():
                dist.all_reduce(values)
        return values

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number; exchanged between CPUs, so no accelerator is waited for."""
        if self.world == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        values = torch.tensor(numbers, dtype=torch.float64)
        with _heard():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        found: list[float] = values.tolist()
        return found

    def told(self, value: T | None) -> T:
        """What the first rank has for ``value``; the others' is not looked at."""
        if self.world > 1:
            import torch.distributed as dist

            said = [value]
            with _heard():
                dist.broadcast_object_list(said, src=0, device=_cpu())
            value = said[0]
        return value  # type: ignore[return-value]

    def align(self, model: nn.Module) -> None:
        """Gives every rank the first one's weights and buffers, to the bit."""
        if self.world > 1:
            mine = {name: value.cpu() for name, value in model.state_dict().items()}
            model.load_state_dict(self.told(mine if self.first else None))

    # One rank leads, the others serve.

    def map(self, work: Work[S, T], items: Sequence[S]) -> list[T]:
        """What ``work`` makes of each item, for the first rank, while the others `serve`.

        The items are dealt in turns: ``work`` is handed some of them, and returns as many results.
        """
        if self.world == 1:
            return work(items)
        self._awaited = False
        mine = self._dealt([items[k :: self.world] for k in range(self.world)])
        found = self._gathered(work(mine))
        self._awaited = True
        return [found[k % self.world][k // self.world] for k in range(len(items))]

    def serve(self, work: Work[S, T]) -> None:
        """Does ``work`` of what the first rank hands out until it has no more."""
        while (items := self._dealt(None)) is not None:
            self._gathered(work(items) if items else [])

    @contextmanager
    def leading(self) -> Iterator[None]:
        """At the end, well or not, the others stop serving."""
        try:
            yield
        except BaseException:
            with suppress(Lost):  # the reason why it ends is told, not what came of it
                self._dismiss()
            raise
        self._dismiss()

    def _dismiss(self) -> None:
        if self.world > 1 and self._awaited:
            self._dealt([None] * self.world)

    def _dealt(self, hands: list[Any] | None) -> Any:
        """This rank's of as many things as there are ranks, which the first one gives."""
        import torch.distributed as dist

        mine = [None]
        with _heard():
            dist.scatter_object_list(mine, hands, src=0)
        return mine[0]

    def _gathered(self, results: list[T]) -> list[list[T]]:
        """What each rank has, in the first one; nothing in the others."""
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world if self.first else None
        with _heard():
            dist.gather_object(results, found, dst=0)
        return found or []


ALONE = Ranks()


def started() -> Ranks:
    """Which process this is, as torchrun says; alone where nobody does. Errors: Usage."""
    rank, world = launch.place()
    return Ranks(rank, world) if world > 1 else ALONE


@contextmanager
def joined(device: str, silence: timedelta = SILENCE) -> Iterator[Ranks]:
    """This process among those of torchrun, connected for as long as the block lasts.

    Args:
        device: where this rank will compute, as `devices.device_named` takes it.
        silence: how long another may take to its next exchange.

    Errors: Usage, and Lost where the others do not come.
    """
    crew = started()
    if crew.world == 1:
        yield crew
        return
    import torch
    import torch.distributed as dist

    from neupol_cli.devices import device_named

    place, backend = device_named(device), "gloo"
    if place.type == "cuda":
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    with _heard(), _mortal():
        store, rank, world = next(dist.rendezvous("env://", timeout=ARRIVAL))
        name = agreed_name(store, rank, world, ARRIVAL.total_seconds())
        store = dist.PrefixStore(name, store)
        dist.init_process_group(backend, None, silence, world, rank, store)
    try:
        yield crew
    finally:
        dist.destroy_process_group()


@contextmanager
def _mortal() -> Iterator[None]:
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
def _heard() -> Iterator[None]:
    """Raises Lost for what an exchange says when one of the ranks is gone."""
    try:
        yield
    except TimeoutError as error:
        raise Lost(str(error)) from error
    except RuntimeError as error:
        reason = re.sub(r"\[[^]]*\]:?\s*", "", str(error)).split("\n")[0].split(". ")[0]
        raise Lost(f"another process of this run has ended ({reason})") from error


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
