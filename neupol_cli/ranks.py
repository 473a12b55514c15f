"""The processes that torchrun starts: which of them this one is, and what they tell each other.

    torchrun --nproc-per-node 4 -m neupol_cli fit egnn qm9.h5 -o run

The first rank reads, writes and speaks; the others compute their share. All of them meet in every
exchange, in the same order. A rank that ends before takes the others with it: each raises `Lost`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from neupol_cli.errors import TryAgain, Usage

if TYPE_CHECKING:
    from torch import Tensor, nn

S = TypeVar("S")
T = TypeVar("T")
Work = Callable[[Sequence[S]], list[T]]
LAUNCHED = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"  # what torchrun sets, all of it
SILENCE = timedelta(minutes=30)  # of a rank that lives, while it evaluates or saves


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
        finally:
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
    if any(name not in os.environ for name in LAUNCHED):
        return ALONE
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError as error:
        raise Usage(f"RANK and WORLD_SIZE are to be numbers: {error}") from error
    if not 0 <= rank < world:
        raise Usage(f"RANK={rank} is none of WORLD_SIZE={world}")
    return Ranks(rank, world) if world > 1 else ALONE


def restarts() -> int:
    """How often torchrun has started this run again after a rank was lost (--max-restarts)."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(count) if started().world > 1 and count.isdecimal() else 0


def launcher() -> str:
    """Host and process of the torchrun that started this process; empty where none did. It stays
    the same when it starts a run again."""
    return f"{socket.gethostname()} {os.getppid()}" if started().world > 1 else ""


def alone(what: str) -> None:
    """Usage where several processes were started for something that one does."""
    if started().world > 1:
        raise Usage(f"{what} is done by one process: leave torchrun out")


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process among those of torchrun, connected for as long as the block lasts.

    Args:
        device: where this rank will compute, as `devices.device_named` takes it.

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
        # torchrun keeps its store when it starts a run again, with the addresses of the dead in it.
        store, rank, world = next(dist.rendezvous("env://", timeout=SILENCE))
        store = dist.PrefixStore(f"neupol/{restarts()}", store)
        dist.init_process_group(backend, None, SILENCE, world, rank, store)
    try:
        yield crew
    finally:
        dist.destroy_process_group()


@contextmanager
def _mortal() -> Iterator[None]:
    """While it waits for the others, SIGTERM ends this process: Python's handlers would wait too.

    There is nothing yet to tidy up.
    """
    earlier = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def _heard() -> Iterator[None]:
    """Raises Lost for what an exchange says when one of the ranks is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"\[[^]]*\]:?\s*", "", str(error)).split("\n")[0].split(". ")[0]
        raise Lost(f"another process of this run has ended ({reason})") from error


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
