"""The loop on a toy: it resumes bit for bit, stops where it should, and never steps into NaN."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neupol_cli import checkpoint
from neupol_cli.distributed.process_group import ProcessGroup
from neupol_cli.errors import DivergedError, TemporaryError, UsageError
from neupol_cli.training.ema import EMA, Window
from neupol_cli.training.epoch_sampler import EpochSampler, mixed
from neupol_cli.training.events import NAMES
from neupol_cli.training.interrupt import Interrupted, Interruption
from neupol_cli.training.loop import Trainer
from neupol_cli.training.run import Folder, Run
from neupol_cli.training.runlog import Metrics, picture
from neupol_cli.training.schedule import Progress, Schedule
from neupol_cli.training.settings import Settings
from tests.training.toy import ToyTask


class Silent:
    def training(self, fraction: float, text: str) -> None:
        assert fraction >= 0

    def say(self, text: str) -> None:
        assert text

    def close(self) -> None:
        return None


USUAL = Settings(
    steps=37, batch_size=6, lr=0.01, valid_every=5, ema=0.9, clip=0.5, warmup=4, log_every=4,
    optimizer="adamw", weight_decay=0.01,
)  # fmt: skip


def trained(steps: int, settings: Settings = USUAL) -> Trainer:
    trainer = Trainer(ToyTask(), settings)
    for _ in range(steps):
        trainer.step()
    return trainer


def equal(a: Any, b: Any) -> bool:
    """Two trees of tensors and numbers, bit for bit (times left out)."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a if k != "elapsed")
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    checkpoint.save_state(folder / "s", state)
    return checkpoint.load_state(folder / "s")


@pytest.mark.parametrize("schedule", ["cosine", "plateau:0", "exponential:10", "constant"])
@pytest.mark.parametrize("stop", [1, 8, 13])
def test_resume_is_exact_at_any_step(tmp_path: Path, schedule: str, stop: int) -> None:
    settings = replace(USUAL, schedule=schedule)

    def go(trainer: Trainer, until: int) -> None:
        while trainer.now.step < until:
            if trainer.evaluation_due():
                trainer.evaluate(lambda: None)
            trainer.step()

    whole = Trainer(ToyTask(), settings)
    go(whole, 20)
    first = Trainer(ToyTask(), settings)
    go(first, stop)
    torch.manual_seed(999)  # whatever happened in between
    second = Trainer(ToyTask(), settings)
    second.restore(through_disk(first.state(), tmp_path))
    go(second, 20)
    ours, theirs = second.state(), whole.state()
    assert equal(ours, theirs) and ours["counters"]["step"] == 20
    assert not equal(ours["model"], first.state()["model"])


def run_in(folder: Path, task: ToyTask, settings: Settings, resume: bool = False) -> Run:
    folder.mkdir(exist_ok=True)
    run = Run(Folder(folder), "toy", Trainer(task, settings), Silent(), asdict(settings))
    run.start(resume)
    return run


def without_times(path: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in path.read_text().splitlines()
    ]


def test_interrupted_runs_end_as_unbroken_ones(tmp_path: Path) -> None:
    whole = run_in(tmp_path / "a", ToyTask(), USUAL)
    test = whole.work()
    calls = 0

    def signalled(run: Run, at: int) -> Callable[[Tensor], Tensor]:
        def count(loss: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            run.interruption.number = 15 if calls == at else run.interruption.number
            return loss

        return count

    resume = False
    for at in (3, 10, 12, 30):  # 10: a step after which a validation is due
        task = ToyTask()
        run = run_in(tmp_path / "b", task, USUAL, resume)
        task.trouble = signalled(run, at)
        with pytest.raises(Interrupted) as stop:
            run.work()
        assert stop.value.code == 143 and run.trainer.now.step == at
        assert run.trainer.model.training
        resume = True
    assert run_in(tmp_path / "b", ToyTask(), USUAL, True).work() == test
    for name in ("best", "last"):
        path = f"{name}.safetensors"
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    a, b = (checkpoint.load_state(tmp_path / x / "state.safetensors") for x in "ab")
    assert equal(a, b)
    lines = [without_times(tmp_path / x / "metrics.jsonl") for x in "ab"]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0] if "valid" in line] == [5, 10, 15, 20, 25, 30, 35, 37]


def test_lines_beyond_the_state_are_dropped(tmp_path: Path) -> None:
    run_in(tmp_path / "a", ToyTask(), replace(USUAL, steps=10)).work()
    path = tmp_path / "a" / "metrics.jsonl"
    good = path.read_text()
    path.write_text(good + '{"step": 11, "loss": 3}\n{"step": 12, "lo')
    run_in(tmp_path / "a", ToyTask(), replace(USUAL, steps=10), True)
    assert path.read_text() == good


def test_best_keeps_the_best_and_its_test(tmp_path: Path) -> None:
    task = ToyTask()
    task.scores = [5.0, 2.0, 3.0, 4.0, 7.5]  # four validations, then the test
    run = run_in(tmp_path / "a", task, replace(USUAL, steps=20))
    assert run.work() == {"y": 7.5}
    meta, tensors = checkpoint.load_file(tmp_path / "a" / "best.safetensors")
    assert meta["training"]["step"] == 10 and run.trainer.now.best_step == 10
    assert meta["valid"] == {"y": {"value": 2.0, "unit": "eV"}}
    assert meta["test"] == {"y": {"value": 7.5, "unit": "eV"}}
    assert meta["model"] == "toy" and meta["targets"] == {"y": "eV"}
    # Averaged weights are what is stored: those of a trainer that stopped there.
    there = trained(10, replace(USUAL, steps=20))
    with there.eval_mode() as model:
        assert torch.equal(model.state_dict()["first.weight"], tensors["first.weight"])
    assert not torch.equal(there.model.state_dict()["first.weight"], tensors["first.weight"])


def test_early_stopping(tmp_path: Path) -> None:
    task = ToyTask()
    task.scores = [5.0, 2.0, 3.0, 4.0, 1.0]
    run = run_in(tmp_path / "a", task, replace(USUAL, steps=1000, patience=2))
    run.work()
    assert run.trainer.now.step == 20 and run.trainer.stopped()
    same = run_in(tmp_path / "a", task, replace(USUAL, steps=2000, patience=2), True)
    assert same.trainer.done()
    more = run_in(tmp_path / "a", task, replace(USUAL, steps=40, patience=3), True)
    assert not more.trainer.done()
    more.work()
    assert more.trainer.now.step == 40


def contents(run: Path) -> dict[str, bytes]:
    """Of a run's files, but for the events, whose times are those of the clock."""
    return {p.name: p.read_bytes() for p in run.iterdir() if not fnmatch(p.name, NAMES)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_seen_before_the_step(tmp_path: Path, bad: float) -> None:
    run_in(tmp_path / "a", ToyTask(), replace(USUAL, steps=10)).work()
    before = contents(tmp_path / "a")
    task = ToyTask()
    run = run_in(tmp_path / "a", task, replace(USUAL, steps=20), True)
    task.trouble = lambda loss: loss * bad
    weights = [p.clone() for p in run.trainer.parameters]
    with pytest.raises(DivergedError, match="at step 10 "):
        run.work()
    assert all(torch.equal(a, b) for a, b in zip(weights, run.trainer.parameters, strict=True))
    assert contents(tmp_path / "a") == before


def test_a_device_that_is_not_waited_for_diverges_as_surely(tmp_path: Path) -> None:
    """The path of an accelerator: a flag there stops the fused optimiser, and is read later."""
    task = ToyTask()
    trainer = Trainer(task, replace(USUAL, ema=0.0))
    trainer.waits = False
    trainer.optimizer.found_inf = trainer.nonfinite  # type: ignore[attr-defined]
    twin = trained(3, replace(USUAL, ema=0.0))
    for _ in range(3):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, twin.parameters, strict=True))
    task.trouble = lambda loss: loss * math.nan
    trainer.step()
    task.trouble = lambda loss: loss
    trainer.step()  # finite again, but nothing moves any more
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, twin.parameters, strict=True))
    with pytest.raises(DivergedError):
        trainer.state()


def test_a_second_signal_quits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    earlier = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            interruption.check()
        assert not codes
        os.kill(os.getpid(), signal.SIGINT)
    assert codes == [130] and signal.getsignal(signal.SIGTERM) is earlier


def test_a_validation_error_that_is_not_finite() -> None:
    task = ToyTask()
    task.scores = [math.nan]
    trainer = Trainer(task, USUAL)
    with pytest.raises(DivergedError, match=r"the validation error \(y\)"):
        trainer.evaluate(lambda: None)
    assert trainer.now.best == math.inf


def test_out_of_memory_says_what_to_change() -> None:
    task = ToyTask()

    def full(loss: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    task.trouble = full
    with pytest.raises(TemporaryError, match="--batch-size 3"):
        Trainer(task, USUAL).step()


def test_restore_refuses_other_data() -> None:
    with pytest.raises(UsageError, match="trained on 20 items and there are 30 now"):
        Trainer(ToyTask(30), USUAL).restore(trained(1).state())


def test_minutes_follow_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count()  # a clock that goes on by 10 ms whenever it is read
    clock = SimpleNamespace(monotonic=lambda: next(readings) / 100)
    monkeypatch.setattr("neupol_cli.training.loop.time", clock)
    settings = replace(USUAL, steps=None, minutes=1 / 60, schedule="cosine")
    run = run_in(tmp_path / "a", ToyTask(), settings)
    run.work()
    assert run.trainer.elapsed() >= 1
    assert run.trainer.optimizer.param_groups[0]["lr"] < 1e-3 * settings.lr
    again = run_in(tmp_path / "a", ToyTask(), settings, True)
    assert again.trainer.done()  # time of earlier sittings counts


def test_a_missing_split_is_no_trouble(tmp_path: Path) -> None:
    task = ToyTask()
    task.evaluate = lambda *given: {}  # type: ignore[method-assign]
    assert run_in(tmp_path / "a", task, replace(USUAL, steps=7)).work() == {}
    assert checkpoint.load_file(tmp_path / "a" / "best.safetensors")[0]["training"]["step"] == 7
    run_in(tmp_path / "a", task, replace(USUAL, steps=9), True).work()
    assert checkpoint.load_file(tmp_path / "a" / "best.safetensors")[0]["training"]["step"] == 9


def test_shuffle_covers_an_epoch_and_shares_it_out() -> None:
    single = EpochSampler(23, 4, 5)
    assert single.per_epoch == 5
    drawn = torch.cat([single.batch(k) for k in range(5)])
    assert len(drawn.unique()) == 20
    assert not torch.equal(single.batch(5), EpochSampler(23, 4, 5).batch(0))
    assert torch.equal(EpochSampler(23, 4, 5).batch(7), single.batch(7))
    shares = [EpochSampler(23, 4, 5, ProcessGroup(rank, 3)).batch(3) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 1, 1]
    assert torch.equal(torch.cat([s[:1] for s in shares] + [shares[0][1:]]), single.batch(3))
    with pytest.raises(UsageError, match="a batch of 2 leaves some of 3 processes idle"):
        EpochSampler(2, 4, 5, ProcessGroup(0, 3))
    assert len(EpochSampler(3, 100, 0).batch(9)) == 3


def test_seeds_differ() -> None:
    seeds = {
        mixed(seed, rank, step) for seed in range(10) for rank in range(10) for step in range(20)
    }
    assert len(seeds) == 2000 and max(seeds) < 2**63


def test_schedules() -> None:
    at = Progress
    cosine = Schedule("cosine", 2.0, warmup=10)
    assert cosine.rate(at(0, 0.0)) == pytest.approx(0.2)
    assert cosine.rate(at(100, 0.5)) == pytest.approx(1.0)
    assert cosine.rate(at(200, 1.0)) == pytest.approx(0.0, abs=1e-15)
    assert Schedule("cosine:0.1", 2.0).rate(at(9, 1.0)) == pytest.approx(0.2)
    assert Schedule("exponential:10", 1.0).rate(at(20, 0.0)) == pytest.approx(0.96**2)
    assert Schedule("constant", 1.0).rate(at(99, 0.9)) == 1.0
    plateau = Schedule("plateau:1", 1.0)
    for metric in (3.0, 2.0, 2.5, 2.0, 1.0):  # twice no better: falls once
        plateau.observe(metric)
    assert plateau.rate(at(9, 0.1)) == pytest.approx(0.8)
    copy = Schedule("plateau:1", 1.0)
    copy.restore(plateau.state())
    assert copy == plateau


@pytest.mark.parametrize("name", ["linear", "exponential:x", "exponential:0"])
def test_wrong_schedules_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError):
        Schedule(name, 1.0)


def test_average_is_undone_exactly() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    average = EMA([p], 0.9)
    with torch.no_grad():
        p.add_(1.0)
    average.update(1)  # young: decay 2/11
    with average.applied():
        assert p.tolist() == pytest.approx([20 / 11, 31 / 11], rel=0, abs=1e-15)
    assert torch.equal(p.data, torch.tensor([2.0, 3.0]).double())


def test_window_means() -> None:
    window = Window()
    for k in range(4):
        window.add({"loss": torch.tensor(float(k)), "part": torch.tensor(2.0)})
    assert window.take() == {"loss": 1.5, "part": 2.0}
    window.add({"loss": torch.tensor(8.0), "part": torch.tensor(0.0)})
    assert window.take() == {"loss": 8.0, "part": 0.0}


def test_picture_is_a_png(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m.jsonl")
    for k in range(1, 6):
        metrics.append({"step": k, "loss": 1 / k})
        metrics.append({"step": k, "valid": {"y": 2 / k}})
    picture(metrics, tmp_path / "loss.png", "y", "eV")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("change", [(0.0, 1e-2), (1e-2, 0.0)])
def test_a_decay_that_comes_or_goes_keeps_moments_in_their_places(
    change: tuple[float, float], tmp_path: Path
) -> None:
    """What a decay spares is a group of its own, which may be there in one sitting alone."""
    before, after = (replace(USUAL, decays="matrices", weight_decay=decay) for decay in change)
    first = Trainer(ToyTask(), before)
    for _ in range(3):
        first.step()
    second = Trainer(ToyTask(), after)
    second.restore(through_disk(first.state(), tmp_path))
    names = dict(first.model.named_parameters())
    for name, parameter in second.model.named_parameters():
        kept = first.optimizer.state[names[name]]
        assert equal(dict(second.optimizer.state[parameter]), dict(kept))
    second.step()


def test_states_that_number_parameters_are_read() -> None:
    """As version 0.1 wrote them; with a decay, what it spares came last."""
    settings = replace(USUAL, decays="matrices", weight_decay=1e-2)
    first = Trainer(ToyTask(), settings)
    first.step()
    state = first.state()
    order = ["first.weight", "second.weight", "first.bias", "second.bias"]
    learnt = [name for name, _ in first.model.named_parameters()]
    free = [name for name in learnt if name.endswith("bias")]
    numbered = [*(name for name in learnt if name not in free), *free]
    assert [name for name in numbered if name in state["optimizer"]] == order
    by_number = {str(numbered.index(name)): kept for name, kept in state["optimizer"].items()}
    second = Trainer(ToyTask(), settings)
    second.restore(state | {"optimizer": by_number})
    assert equal(second.state()["optimizer"], state["optimizer"])


def test_moments_of_another_shape_are_refused() -> None:
    first = Trainer(ToyTask(), USUAL)
    first.step()
    state = first.state()
    state["optimizer"]["first.bias"]["exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"moments of first\.bias have shape"):
        Trainer(ToyTask(), USUAL).restore(state)
