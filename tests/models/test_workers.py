"""Pieces over threads: order, memory, errors, signals, and the same answers for any number."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError
from neupol_cli.models import workers
from neupol_cli.models.workers import IN_FLIGHT, Budget, ahead, in_order
from neupol_cli.prediction.committee import Committee
from tests.warm import python


@pytest.fixture(autouse=True)
def alone_again() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    workers.use(1)
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_whoever_is_first(threads: int) -> None:
    workers.use(threads)

    def slow_at_first(piece: int) -> int:
        time.sleep(0.02 if piece == 0 else 0.0)
        return piece * piece

    assert list(in_order(slow_at_first, range(20))) == [k * k for k in range(20)]
    assert list(in_order(slow_at_first, [7])) == [49]
    assert list(in_order(slow_at_first, [])) == []


def test_one_piece_or_one_thread_stays_where_it_is() -> None:
    workers.use(4)
    here = threading.get_ident()
    assert list(in_order(lambda _: threading.get_ident(), [0])) == [here]
    assert set(in_order(lambda _: threading.get_ident(), [0, 1], at_once=1)) == {here}
    workers.use(1)
    assert set(in_order(lambda _: threading.get_ident(), [0, 1])) == {here}
    assert torch.get_num_threads() == 1


def test_each_thread_has_one_intra_op_thread_and_the_modes_of_the_caller() -> None:
    workers.use(2)

    def modes(_: int) -> tuple[int, bool, bool, torch.dtype]:
        time.sleep(0.01)
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return torch.get_num_threads(), grad, inference, torch.ones(1).dtype

    assert set(in_order(modes, range(6))) == {(1, True, False, torch.float32)}
    with torch.no_grad():
        assert set(in_order(modes, range(6))) == {(1, False, False, torch.float32)}
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            assert set(in_order(modes, range(6))) == {(1, False, True, torch.float64)}
    finally:
        torch.set_default_dtype(torch.float32)


def test_few_pieces_are_in_flight_however_slow_their_reader() -> None:
    workers.use(2)
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(40):
            taken.append(piece)
            yield piece

    for done in in_order(lambda piece: piece, pieces()):
        time.sleep(0.002)
        assert len(taken) <= done + 1 + IN_FLIGHT * 2
    assert done == 39


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised_as_it_was_behind_the_results_before_it(threads: int) -> None:
    workers.use(threads)
    begun: list[int] = []

    def failing(piece: int) -> int:
        begun.append(piece)
        if piece in (5, 6):
            time.sleep(0.02 if piece == 5 else 0)
            raise InputError(f"piece {piece}")
        return piece

    results = []
    with pytest.raises(InputError, match="piece 5"):
        for result in in_order(failing, range(1000)):
            results.append(result)
    assert results == [0, 1, 2, 3, 4]
    assert len(begun) <= 6 + IN_FLIGHT * 3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("good", [0, 1, 2, 9])
def test_pieces_that_do_not_come_end_it_behind_those_that_did(threads: int, good: int) -> None:
    workers.use(threads)

    def pieces() -> Iterator[int]:
        yield from range(good)
        raise InputError("cut short")

    results = []
    with pytest.raises(InputError, match="cut short"):
        for result in in_order(lambda piece: piece, pieces()):
            results.append(result)
    assert results == list(range(good))


def test_a_result_is_there_before_the_next_piece_is() -> None:
    workers.use(4)
    more = threading.Event()

    def pieces() -> Iterator[int]:
        yield from (0, 1, 2)
        assert more.wait(10)
        yield 3

    results = in_order(lambda piece: piece, pieces())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    more.set()
    assert list(results) == [3]


def test_pieces_within_pieces_do_not_wait_for_themselves() -> None:
    workers.use(2)

    def outer(piece: int) -> int:
        assert workers.workers() == 1
        return sum(in_order(lambda inner: inner * piece, range(5)))

    assert list(in_order(outer, range(8))) == [10 * k for k in range(8)]
    assert workers.workers() == 2


def test_what_is_made_ahead_is_the_same_and_its_errors_too() -> None:
    workers.use(2)
    names: list[str] = []

    def items() -> Iterator[int]:
        for item in range(5):
            names.append(threading.current_thread().name)
            # which shares out pieces of its own
            yield item * sum(in_order(lambda k: k, range(3)))
        raise InputError("no more")

    made = ahead(items())
    assert [next(made) for _ in range(5)] == [0, 3, 6, 9, 12]
    with pytest.raises(InputError, match="no more"):
        next(made)
    assert threading.current_thread().name not in names
    workers.use(1)
    assert next(ahead(items())) == 0 and names[-1] == threading.current_thread().name


def test_a_budget_is_not_overdrawn() -> None:
    workers.use(3)
    budget, lock = Budget(10), threading.Lock()
    held, highest = [0], [0]

    def work(size: int) -> None:
        with budget.taken(size):
            with lock:
                held[0] += min(size, 10)
                highest[0] = max(highest[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= min(size, 10)

    list(in_order(work, [6, 3, 5, 1, 99, 4, 4, 2] * 3))
    assert 6 < highest[0] <= 10


SIGNALLED = """
import os, signal, sys, threading, time
from neupol_cli import signals
from neupol_cli.models import workers
signals.install()
workers.use(2)
def work(piece):
    if piece == 3:
        os.kill(os.getpid(), signal.{name})
    time.sleep(1000 if piece >= 3 else 0)
    return piece
try:
    for result in workers.in_order(work, range(100)):
        print(result, flush=True)
except SystemExit as end:
    print("ended", end.code, flush=True)
    os._exit(end.code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_waits_for_no_piece(name: str, code: int) -> None:
    done = python("-c", SIGNALLED.format(name=name))
    assert done.returncode == code and done.stdout.endswith(f"ended {code}\n"), done.stderr


def answers(work: Any) -> list[Any]:
    """What comes of the same with one, two and three threads."""
    results = []
    for threads in (1, 2, 3):
        workers.use(threads)
        results.append(work())
    return results


def test_densities_are_the_same_to_the_bit_for_any_number_of_threads() -> None:
    from neupol_cli.io.volumetric import by_counts

    water = ase.Atoms("OH2", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]])
    probes = torch.rand(5000, 3, dtype=torch.float64) * 5 - 2
    for name in ("charge3net", "deepdft-painn", "deepdft-schnet"):
        torch.manual_seed(0)
        settings: dict[str, Any] = {"hidden": 16, "layers": 2}
        if name == "charge3net":
            settings |= {"mul": 16, "lmax": 1}
        model = registry.build(name, settings).eval()
        grid = by_counts(water, (36, 36, 36), 2.0)
        told: list[tuple[int, int]] = []

        def density() -> torch.Tensor:
            return model.density_grid(water, grid, progress=lambda *now: told.append(now))  # noqa: B023

        first, *others = answers(density)
        assert all(torch.equal(first, other) for other in others)
        once = len(told) // 3
        assert once > 1 and told == 3 * sorted(told[:once]) and told[-1] == 2 * (grid.size,)
        first, *others = answers(lambda: model.density(water, probes))  # noqa: B023
        assert all(torch.equal(first, other) for other in others)


def test_predictions_are_the_same_to_the_bit_for_any_number_of_threads(untrained: Any) -> None:
    rng = np.random.default_rng(0)
    committee = Committee([registry.load_property(str(untrained()), "cpu")], ["egnn"])
    named = [
        (str(k), ase.Atoms("OCH" * (1 + k % 3), rng.normal(size=(3 + k % 3 * 3, 3)) * 3))
        for k in range(260)
    ]

    def predicted() -> list[Any]:
        predictions = committee.predicted(iter(named), True, False, doubted=True)
        return [(p.label, p.numbers(), p.forces.values.tolist()) for p in predictions if p.forces]

    first, *others = answers(predicted)
    assert [label for label, *_ in first] == [label for label, _ in named]
    assert all(first == other for other in others)
