"""Pieces of work over threads that do not meet.

A piece (a tile of a grid, a batch of structures) runs on one thread from beginning to end, and so
do all operations in it. Cut over threads, every operation would end in a barrier, thousands a
second: a busy machine holds them all up at each, and waiting threads spin. Pieces wait for nobody:
cores add up, and others who use them cost their share.

What the pieces are never depends on how many threads there are, and so no answer does. PyTorch's
operations and compiled loops let go of the interpreter's lock; the Python between them does not,
and adds up over all threads; where that is much, copies of the process work (processes.py).
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Protocol, TypeVar

from neupol_cli.errors import TemporaryError

S = TypeVar("S")
T = TypeVar("T")

# Pieces that wait, run, or are done and not yet asked for, by thread.
IN_FLIGHT = 2
# Seconds that a thread at work in Python lets another one wait: after each of its operations a
# piece needs the interpreter again, and would otherwise wait 5 ms for a reader of files.
SWITCH = 1e-3
# New objects after which Python looks for some that only hold each other, as it does by itself;
# until everything is imported it waits for more (neupol_cli/__main__.py).
COLLECTED = 700


@dataclass
class _Chosen:
    """How many threads this process shares pieces out to."""

    workers: int = 1


class _Here(threading.local):
    """Whether this thread is at work on a piece."""

    within: bool = False


_chosen, _here = _Chosen(), _Here()


def use(workers: int) -> None:
    """From now on pieces are shared out to so many threads, and no operation is."""
    _whole_operations()
    gc.freeze()  # no collection need go through what is imported by now, and stays
    gc.set_threshold(COLLECTED)
    _chosen.workers = workers
    if workers > 1:
        sys.setswitchinterval(SWITCH)


def workers() -> int:
    """How many threads pieces go to from here: from within a piece they go nowhere."""
    return 1 if _here.within else _chosen.workers


def in_order(
    work: Callable[[S], T],
    pieces: Iterable[S],
    at_once: int | None = None,
    apart: bool = False,
) -> Iterator[T]:
    """What ``work`` makes of each piece, in order; several pieces at a time.

    Pieces are taken from their iterable on a thread of its own, as they are needed: no more than
    IN_FLIGHT times as many as there are threads wait, run or are done, the one included whose
    result the caller has, until it asks for the next. The first piece, in order, that fails (or
    does not come) ends the others, and its exception is raised as it was. A signal waits for none.

    With one thread, one piece, or from within a piece, this is ``map``.

    Args:
        work: must not write to what other pieces read. Runs under the caller's grad mode.
        pieces: cut without a look at the number of threads.
        at_once: so many pieces fit in memory.
        apart: there is much Python in the work: it is done by copies of this process where it may
            be forked (processes.py), and changes nothing here.

    Raises:
        TemporaryError: the system gives no more threads, or ended one of the copies.
    """
    threads = workers() if at_once is None else max(1, min(workers(), at_once))
    if threads == 1:
        return map(work, pieces)
    return _over_threads(_under_same_mode(work), pieces, threads, apart)


@contextmanager
def kept_apart(
    work: Callable[[S], T], at_once: int
) -> Iterator[Callable[[Iterable[S]], Iterator[T]]]:
    """``in_order`` of one work, as often as it is called; until the block ends the same copies of
    this process do it, where it may be forked.

    Args:
        work: as it is when the block begins, and under the grad mode of then; reads what changes
            later from its pieces or from memory that copies share (processes.py).
        at_once: as of :func:`in_order`.

    Raises:
        TemporaryError: as of :func:`in_order`.
    """
    threads = min(workers(), at_once)
    if threads == 1:
        yield partial(map, work)
        return
    with _done_by(_under_same_mode(work), threads, apart=True) as done, _pools(threads) as pools:
        yield lambda pieces: _shared_out(done, iter(pieces), threads, pools)


def ahead(items: Iterable[T], count: int = 1) -> Iterator[T]:
    """The same items; up to ``count`` are made, on a thread of their own, before they are asked
    for: what makes them and what is done with them overlap. With one thread they do not."""
    return iter(items) if workers() == 1 else _made_ahead(iter(items), count)


def _over_threads(
    work: Callable[[S], T], pieces: Iterable[S], threads: int, apart: bool
) -> Iterator[T]:
    rest = iter(pieces)
    first = list(islice(rest, 1))
    try:
        first += islice(rest, 1)
    except Exception:  # behind the result of the piece that there is
        yield from map(work, first)
        raise
    if len(first) == 2:
        with _done_by(work, threads, apart) as done, _pools(threads) as pools:
            yield from _shared_out(done, chain(first, rest), threads, pools)
    else:
        yield from map(work, first)


@contextmanager
def _done_by(work: Callable[[S], T], threads: int, apart: bool) -> Iterator[Callable[[S], T]]:
    """What the threads call: the work, or copies of this process that do it."""
    if not apart:
        yield work
        return
    from neupol_cli.models import processes  # which needs torch

    if processes.possible():
        with processes.copies(work, threads, partial(_begin, within=True)) as ask:
            yield ask
    else:
        yield work


def _shared_out(
    work: Callable[[S], T], pieces: Iterator[S], threads: int, pools: tuple[Submit, Submit]
) -> Iterator[T]:
    """A thread takes pieces and hands them on, so that results are there as soon as they are done,
    however long the next piece takes to come."""
    slots, handed = threading.Semaphore(IN_FLIGHT * threads), SimpleQueue[Future[T] | None]()
    stopped, (submit, begin) = threading.Event(), pools

    def feed(_: None) -> None:
        try:
            while slots.acquire() and not stopped.is_set():
                handed.put(submit(work, next(pieces)))
        except StopIteration:
            handed.put(None)
        except Exception as error:  # raised where its turn is, behind the results before it
            failed = Future[T]()
            failed.set_exception(error)
            handed.put(failed)

    begin(_under_same_mode(feed), None)
    try:
        while (future := handed.get()) is not None:
            yield future.result()
            slots.release()
    finally:
        stopped.set()
        slots.release()


@contextmanager
def _pools(threads: int) -> Iterator[tuple[Submit, Submit]]:
    """Ways to hand calls to so many threads at work, and to one that feeds them."""
    with _pool(threads) as submit, _pool(1, feeds=True) as begin:
        yield submit, begin


def _made_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    end = object()

    following = _under_same_mode(lambda _: next(items, end))
    with _pool(1, feeds=True) as submit:
        pending = deque(submit(following, None) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(submit(following, None))
            yield item  # type: ignore[misc]  # one of the items, as it is not the end


class Budget:
    """What pieces at work may take together: bytes, pairs of atoms.

    Args:
        size: in all.
    """

    def __init__(self, size: int) -> None:
        self.size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Waits until so many are left, or all of them, and holds them."""
        size = min(size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


class Submit(Protocol):
    """Hands a call to a thread."""

    def __call__(self, work: Callable[[S], T], piece: S) -> Future[T]: ...


@contextmanager
def _pool(threads: int, feeds: bool = False) -> Iterator[Submit]:
    """A way to hand calls to some threads. What has not begun when the block ends never does; what
    runs is waited for, unless there is a hurry: a signal, or nobody who wants more.

    Args:
        threads: how many.
        feeds: they do not work on pieces, but make them, and may wait for a file: nobody waits for
            such a thread.
    """
    executor = ThreadPoolExecutor(threads, "neupol", _begin, (not feeds,))

    def submit(work: Callable[[S], T], piece: S) -> Future[T]:
        try:
            return executor.submit(work, piece)
        except RuntimeError as error:
            raise TemporaryError(f"{error}; take fewer --threads") from error

    try:
        yield submit
    except Exception:  # which may be that memory ran out: what runs has to give back its own
        executor.shutdown(wait=not feeds, cancel_futures=True)
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _begin(within: bool) -> None:
    """The beginning of a thread."""
    _whole_operations()
    _here.within = within


def _whole_operations() -> None:
    """No operation of this thread is cut over others: OpenMP counts for each one by itself."""
    if "torch" in sys.modules:  # or else there are none
        import torch

        torch.set_num_threads(1)


def _under_same_mode(work: Callable[[S], T]) -> Callable[[S], T]:
    """The same under the grad mode of the thread that calls this: each thread has its own."""
    if "torch" not in sys.modules:
        return work
    import torch

    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def working(piece: S) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(piece)

    return working
