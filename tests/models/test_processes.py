"""Pieces over copies of this process: order, errors, memory, and that no copy outlives its use."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from neupol_cli.errors import InputError, TemporaryError
from neupol_cli.models import processes, workers
from neupol_cli.models.workers import in_order
from tests.warm import python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


@pytest.fixture(autouse=True)
def differentiating_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies differentiate, whatever other tests have left in this process."""
    monkeypatch.setattr(processes, "_differentiates", lambda: True)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    workers.use(2)
    yield
    workers.use(1)
    sys.setswitchinterval(interval)


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_answers_come_in_order_from_two_copies() -> None:
    def slow_at_first(piece: int) -> tuple[int, int, int, int]:
        time.sleep(0.05 if piece == 0 else 0.0)
        return piece, os.getpid(), torch.get_num_threads(), workers.workers()

    found = list(in_order(slow_at_first, range(20), apart=True))
    assert [piece for piece, *_ in found] == list(range(20))
    pids = {pid for _, pid, *_ in found}
    assert len(pids) == 2 and os.getpid() not in pids and all(map(gone, pids))
    assert {(threads, within) for *_, threads, within in found} == {(1, 1)}


def test_one_piece_or_no_more_memory_than_for_one_stays_here() -> None:
    pids = set(in_order(lambda _: os.getpid(), [0], apart=True))
    pids |= set(in_order(lambda _: os.getpid(), [0, 1], at_once=1, apart=True))
    assert pids == {os.getpid()}


def test_beside_another_thread_at_work_nothing_is_forked() -> None:
    end = threading.Event()
    other = threading.Thread(target=end.wait, name="neupol_0")
    other.start()
    try:
        assert not processes.possible()
        assert set(in_order(lambda _: os.getpid(), range(4), apart=True)) == {os.getpid()}
    finally:
        end.set()
        other.join()
    deadline = time.monotonic() + 60
    while not processes.possible():  # the threads that did it end in a moment
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_copies_see_the_modes_of_the_caller() -> None:
    with torch.no_grad():
        assert set(in_order(lambda _: torch.is_grad_enabled(), range(4), apart=True)) == {False}
    assert set(in_order(lambda _: torch.is_grad_enabled(), range(4), apart=True)) == {True}


def test_tensors_go_there_and_back() -> None:
    pieces = [torch.arange(k, dtype=torch.float64).requires_grad_(False) for k in range(5)]
    found = list(in_order(lambda tensor: 2 * tensor, pieces, apart=True))
    assert all(torch.equal(double, 2 * one) for double, one in zip(found, pieces, strict=True))


def test_shared_values_are_written_by_the_copies() -> None:
    values = processes.shared(torch.full((6, 2), -1.0))
    assert torch.equal(values, torch.full((6, 2), -1.0))
    assert processes.shared(torch.zeros(0, 2)).shape == (0, 2)

    def write(row: int) -> None:
        values[row] = row

    list(in_order(write, range(6), apart=True))
    assert values.tolist() == [[k, k] for k in range(6)]


class Awkward(Exception):
    """Cannot be made again from what it says."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (InputError("a.xyz:3: bad"), InputError, "a.xyz:3: bad"),
        (Awkward(1, 2), RuntimeError, "Awkward: 1 and 2"),
        (ValueError("odd"), ValueError, "odd"),
    ],
)
def test_the_first_error_is_raised_behind_the_results_before_it(
    error: Exception, kind: type[Exception], says: str
) -> None:
    def failing(piece: int) -> tuple[int, int]:
        if piece == 5:
            raise error
        return piece, os.getpid()

    results: list[Any] = []
    with pytest.raises(kind, match=re.escape(says)) as caught:
        results += (pair for pair in in_order(failing, range(1000), apart=True))
    if kind is ValueError:  # a bug's place in the copy would be lost
        assert "in failing" in caught.value.__notes__[0]
    for piece, pid in in_order(failing, range(5), apart=True):
        results.append((piece, pid))
    assert [piece for piece, _ in results[-5:]] == list(range(5))
    assert all(gone(pid) for _, pid in results)


def test_a_copy_that_is_killed_is_trouble_in_one_line() -> None:
    def killed(piece: int) -> int:
        if piece == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return piece

    with pytest.raises(TemporaryError, match="was ended; take fewer --threads"):
        list(in_order(killed, range(10), apart=True))


def test_whoever_wants_no_more_leaves_no_copy_behind() -> None:
    found = in_order(lambda _: os.getpid(), range(1000), apart=True)
    pids = {next(found) for _ in range(4)}
    found.close()  # type: ignore[attr-defined]
    assert all(map(gone, pids))


SIGNALLED = """
import os, signal, sys, time
from neupol_cli import signals
from neupol_cli.models import workers
signals.install()
os.setpgid(0, 0)
workers.use(2)
parent = os.getpid()
def work(piece):
    os.write(1, b"%d %d\\n" % (piece, os.getpid()))
    if piece == 3:
        {act}
    time.sleep(1000 if piece >= 3 else 0)
    return piece, os.getpid()
try:
    for result in workers.in_order(work, range(100), apart=True):
        print(*result, flush=True)
except SystemExit as end:
    print("ended", end.code, flush=True)
    os._exit(end.code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_all_of_them_waits_for_no_piece(name: str, code: int) -> None:
    done = python("-c", SIGNALLED.format(act=f"os.killpg(parent, signal.{name})"))
    assert done.returncode == code and done.stdout.endswith(f"ended {code}\n"), done.stderr
    assert all(gone(int(line.split()[1])) for line in done.stdout.splitlines()[:-1])


def test_copies_end_with_their_process() -> None:
    act = "os.kill(parent, signal.SIGKILL); return piece, 0"
    done = python("-c", SIGNALLED.format(act=act).replace("1000", "0.1"))
    pids = {int(line.split()[1]) for line in done.stdout.splitlines()}
    assert done.returncode == -signal.SIGKILL and pids
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("able", [False, True])
def test_what_a_copy_cannot_differentiate_is_done_by_the_process(
    monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    """PyTorch refuses it in a copy where it has threads for the gradients of a device."""
    monkeypatch.setattr(processes, "_differentiates", lambda: able)
    here = os.getpid()

    def work(piece: int) -> int:
        if os.getpid() != here:
            raise RuntimeError("no gradients in a copy")
        return 2 * piece

    found = in_order(work, range(6), apart=True)
    if able:
        with pytest.raises(RuntimeError, match="no gradients"):
            list(found)
    else:
        assert list(found) == [0, 2, 4, 6, 8, 10]
    assert processes.possible()
