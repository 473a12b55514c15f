"""Pieces of work over copies of this process, where the interpreter's lock would be in the way.

Of the seconds of a prediction half are Python's, and a tile of a density takes that lock again some
fifty times in two milliseconds: two threads wait for each other more than they work. A copy has a
lock of its own. It is forked with all that is loaded, answers one piece after the other through a
socket, and ends with this process, however that ends. What it is to see change, or to answer with
many numbers, lies in memory that is shared: through a socket 6 million gradients take 90 ms, there
4 ms.
"""

from __future__ import annotations

import copyreg
import gc
import io
import mmap
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import NoReturn, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from neupol_cli.errors import NeupolError, TemporaryError

S = TypeVar("S")
T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def copies(
    work: Callable[[S], T], count: int, begin: Callable[[], None]
) -> Iterator[Callable[[S], T]]:
    """A way to have ``work`` done by so many copies of this process.

    To be called by as many threads; each call waits for its answer without the interpreter's lock.
    What ``work`` raises there is raised here. PyTorch differentiates nothing in a copy of a process
    that has threads for a device's gradients: the calling thread then takes the copy's place.

    Args:
        work: its arguments and results can be pickled; what else it changes stays in the copy,
            but for memory that is shared (:func:`shared`).
        count: of the copies.
        begin: called once in each of them.

    Raises:
        TemporaryError: the system gives no more processes, or has ended one.
    """
    made: list[tuple[int, Connection]] = []
    free = SimpleQueue[Connection | None]()  # None: the thread that asks does it

    def ask(piece: S) -> T:
        connection = free.get()
        try:
            done, result = _asked(connection, piece) if connection else (None, None)
            if done:
                return cast(T, result)
            if done is not None:
                raise cast(Exception, result)
            connection = None
            return work(piece)
        finally:
            free.put(connection)

    try:
        for _ in range(count):
            made.append(_forked(work, begin, [connection for _, connection in made]))
            free.put(made[-1][1])
        yield ask
    finally:
        for process, _ in made:
            os.kill(process, signal.SIGKILL)
        for process, _ in made:
            with suppress(ChildProcessError):
                os.waitpid(process, 0)


def _asked(connection: Connection, piece: object) -> tuple[bool | None, object]:
    """What a copy says of a piece: see :func:`_answer`."""
    try:
        connection.send_bytes(_pickled(piece))
        answer: tuple[bool | None, object] = pickle.loads(connection.recv_bytes())
    except (EOFError, OSError) as error:
        raise TemporaryError("one of the processes was ended; take fewer --threads") from error
    return answer


def possible() -> bool:
    """Whether this process may be forked: no other of its threads may be within a library's lock,
    which nobody would give back in the copy."""
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    at_work = any(t is threading.main_thread() or t.name.startswith("neupol") for t in others)
    return sys.platform == "linux" and not at_work


def shared(values: Tensor) -> Tensor:
    """The same values, on a CPU in memory that copies of this process write to as well."""
    if values.device.type != "cpu" or not values.numel():
        return values
    return shared_room(values).copy_(values)


def shared_room(like: Tensor) -> Tensor:
    """Zeros for as many numbers, on a CPU; what nobody writes to takes no memory."""
    if not like.numel():
        return torch.zeros_like(like)
    try:
        room = mmap.mmap(-1, like.nbytes)
    except OSError as error:
        raise MemoryError(f"{like.nbytes} bytes") from error
    return torch.frombuffer(room, dtype=like.dtype).view(like.shape)


def _forked(
    work: Callable[[S], T], begin: Callable[[], None], others: list[Connection]
) -> tuple[int, Connection]:
    """A copy and the connection to it."""
    # A signal just behind the fork would have the copy clean up what is not its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        here, there = Pipe()
        process = os.fork()
        if not process:
            _serve(work, begin, there, [here, *others])
    except OSError as error:
        raise TemporaryError(f"{error.strerror}; take fewer --threads") from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    there.close()
    return process, here


def _serve(
    work: Callable[[S], T],
    begin: Callable[[], None],
    connection: Connection,
    others: Sequence[Connection],
) -> NoReturn:
    """Answers until nobody asks any more; ``others`` are this process's own ends, whose closing
    would not be seen while a copy held them. Signals are answered by the process itself."""
    try:
        for other in others:
            other.close()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # In their place may stand a progress bar's, whose thread had their lock and is not here.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        gc.freeze()  # to collect what was there before would copy every page of it
        begin()
        while True:
            connection.send_bytes(_answer(work, pickle.loads(connection.recv_bytes())))
    finally:
        os._exit(0)


def _differentiates() -> bool:
    """Whether this process can."""
    one = torch.ones((), requires_grad=True)
    try:
        with torch.enable_grad():
            torch.autograd.grad(one * one, one)
    except RuntimeError:
        return False
    return True


def _answer(work: Callable[[S], T], piece: S) -> bytes:
    """Pickled: whether it is done, with the result or an exception; None of both where this process
    cannot differentiate."""
    try:
        return _pickled((True, work(piece)))
    except Exception as error:
        return _error(error) if _differentiates() else _pickled((None, None))


def _error(error: Exception) -> bytes:
    """An exception on its way; where it cannot go, what it says."""
    trace = "".join(traceback.format_exception(error))
    if not isinstance(error, NeupolError):
        error.add_note(trace)  # which would end here
    try:
        content = _pickled((False, error))
        pickle.loads(content)
    except Exception:
        content = _pickled((False, RuntimeError(trace)))
    return content


def _pickled(content: object) -> bytes:
    """Tensors go as arrays: PyTorch's own way writes a file of each."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {Tensor: _as_array}
    pickler.dump(content)
    return stream.getvalue()


def _as_array(tensor: Tensor) -> tuple[Callable[[np.ndarray], Tensor], tuple[np.ndarray]]:
    return torch.from_numpy, (tensor.numpy(),)
