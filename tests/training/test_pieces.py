"""A batch in pieces, on threads and in copies of the process: the same loss and gradients as whole,
to the bit whoever works on which."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neupol_cli.errors import TemporaryError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.models import processes, workers
from neupol_cli.models.nn.dropout import drawn_from, dropout
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.conftest import Alone
from tests.contracts.conftest import SMALL
from tests.training.small import Weights, hydrogens, molecules, particles, same, weights
from tests.training.toy import ToyTask


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before, threads = workers.workers(), torch.get_num_threads()
    interval = sys.getswitchinterval()
    yield
    workers.use(before)
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


def trainer(name: str, targets: tuple[str, ...], grain: int, **more: Any) -> Trainer:
    config = SMALL[name] | more
    request = Request(targets=targets, config=config, dtype="float64", references="none")
    task = task_for(name, molecules(), request)
    task.grain = grain
    return Trainer(task, Settings(batch_size=14, steps=1))


@pytest.mark.parametrize("targets", [("energy",), ("energy", "mu"), ("energy", "forces")])
@pytest.mark.parametrize("name", SMALL)
def test_pieces_add_up_to_the_batch(name: str, targets: tuple[str, ...]) -> None:
    more = {"encoding": "learned"}
    if name == "equiformer":
        more = {"alpha_drop": 0.0}  # dropout draws other numbers for pieces
    workers.use(3)
    one = trainer(name, targets, 1, **more)
    indices = torch.tensor([3, 0, 12, 7, 9, 1, 5])
    loss, parts = one._whole(indices)
    whole = [None if p.grad is None else p.grad.clone() for p in one.parameters]
    one.optimizer.zero_grad(set_to_none=True)
    assert one.pieces is not None
    total, sums = one.pieces.summed((0,), indices, indices.tensor_split(3))
    assert float(total) == pytest.approx(float(loss.detach()), rel=0, abs=1e-12)
    assert parts.keys() == sums.keys()
    for part in parts:
        assert float(sums[part]) == pytest.approx(float(parts[part].detach()), rel=0, abs=1e-12)
    for parameter, gradient in zip(one.parameters, whole, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            atol = 1e-12 * (1 + float(gradient.abs().max()))
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def densities(tmp_path_factory: pytest.TempPathFactory) -> hdf5.Dataset:
    return hydrogens(tmp_path_factory.mktemp("pieces") / "h.h5")


@pytest.mark.parametrize("name", ["charge3net", "deepdft-schnet", "egnn-nbody"])
def test_a_piece_weighs_as_much_as_it_holds(name: str, densities: hdf5.Dataset) -> None:
    """Whatever a task draws for a piece: the piece's loss is its own mean times its share."""
    data = particles() if name == "egnn-nbody" else densities
    sizes = {"layers": 1} if name != "charge3net" else {"layers": 2, "mul": 8, "lmax": 1}
    more = {} if name == "egnn-nbody" else {"probes": 16}
    config = sizes | {"hidden": 8} | more
    task = task_for(name, data, Request(config=config, dtype="float64"))
    whole = torch.arange(6)

    def loss(*words: torch.Tensor) -> float:
        some, *batch = words
        return float(task.loss(some, torch.Generator().manual_seed(4), *batch)[0].detach())

    for some in (whole[:2], whole[2:]):
        share = len(some) / 6
        assert loss(some, whole) == pytest.approx(share * loss(some), rel=0, abs=1e-12)
    assert task.grain >= 1


USUAL = Settings(batch_size=7, steps=10, lr=1e-2, ema=0.9)
FORKED = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def toy() -> ToyTask:
    """A task whose batches of seven are cut into four."""
    task = ToyTask()
    task.grain = 1
    return task


def trained(threads: int, settings: Settings = USUAL, apart: bool = False) -> Weights:
    """The weights after ten steps with dropout and noise."""
    workers.use(threads)
    one = Trainer(toy(), settings)
    with one.apart() if apart else nullcontext():
        for _ in range(10):
            one.step()
    return weights(one)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_threads_and_copies_change_no_bit(ema: float) -> None:
    settings = replace(USUAL, ema=ema)
    alone = trained(1, settings)
    for threads in (2, 5):
        for apart in (False, True):
            same(trained(threads, settings, apart), alone)
    whole = trained(1, replace(settings, cut=False))  # draws other numbers: pieces were at work
    assert not torch.equal(whole["model.first.weight"], alone["model.first.weight"])


def test_where_nothing_can_be_forked_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = trained(1)
    monkeypatch.setattr(processes, "possible", lambda: False)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("was forked"))
    same(trained(2, apart=True), alone)


@FORKED
def test_where_copies_cannot_differentiate_threads_take_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, here, asked = trained(1), os.getpid(), []
    differentiate, ask = torch.autograd.grad, processes._asked

    def only_here(*words: Any, **more: Any) -> Any:
        if os.getpid() != here:
            raise RuntimeError("no gradients in a copy")
        return differentiate(*words, **more)

    monkeypatch.setattr(torch.autograd, "grad", only_here)
    monkeypatch.setattr(processes, "_asked", lambda *words: asked.append(1) or ask(*words))
    same(trained(2, apart=True), alone)
    assert 1 <= len(asked) <= 2  # no copy is asked again


def own_children() -> set[int]:
    this = os.getpid()
    return set(map(int, Path(f"/proc/{this}/task/{this}/children").read_text().split()))


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=FORKED)])
def test_a_fault_in_a_piece_is_raised_as_it_is(apart: bool) -> None:
    task, known = toy(), own_children() if apart else set()

    def fails(loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    workers.use(2)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    one = Trainer(task, USUAL)
    task.trouble = fails
    with (
        pytest.raises(TemporaryError, match="out of memory with --batch-size 7"),
        one.apart() if apart else nullcontext(),
    ):
        one.step()
    assert all(torch.equal(v, before[name]) for name, v in task.model.state_dict().items())
    assert not apart or own_children() == known


@FORKED
def test_what_reaches_no_parameter_is_said_by_copies_too() -> None:
    task = toy()
    task.trouble = torch.Tensor.detach
    workers.use(2)
    one = Trainer(task, USUAL)
    with pytest.raises(UsageError, match="leave some of --freeze out"), one.apart():
        one.step()


@FORKED
def test_a_copy_that_is_killed_ends_the_training_in_one_line(alone: Alone) -> None:
    alone(with_copies_killed)


def with_copies_killed() -> None:
    workers.use(2)
    one, known = Trainer(toy(), USUAL), own_children()
    with pytest.raises(TemporaryError, match="was ended; take fewer --threads"), one.apart():
        one.step()
        for process in own_children() - known:
            os.kill(process, signal.SIGKILL)
        one.step()
    assert own_children() == known


def test_dropout_has_its_mean_and_its_own_generator() -> None:
    x = torch.ones(400_000, dtype=torch.float64)
    for generator in (None, torch.Generator().manual_seed(1)):
        if generator is None:
            y = dropout(x, 0.2)
        else:
            with drawn_from(generator):
                y = dropout(x, 0.2)
        assert set(y.unique().tolist()) == {0.0, 1.25}
        assert float(y.mean()) == pytest.approx(1.0, abs=0.004)  # five standard errors
    assert dropout(x, 0.0) is x or torch.equal(dropout(x, 0.0), x)
