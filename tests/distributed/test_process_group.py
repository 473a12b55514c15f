"""Several ranks do together what one does alone: here each is a thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from neupol_cli.density.on_grid import slabs
from neupol_cli.distributed import process_group, torchrun
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.distributed.rendezvous import agreed_name
from neupol_cli.errors import UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric import Grid
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for

WORLD = 3


class Board:
    """Where the threads write what they have to say, and read what all have said."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(WORLD)
        self.said: list[Any] = [None] * WORLD

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.said[rank] = value
        self.barrier.wait(30)
        found = list(self.said)
        self.barrier.wait(30)
        return found


class Thread(ProcessGroup):
    def __init__(self, rank: int, board: Board) -> None:
        super().__init__(rank, WORLD)
        self.board = board

    def all_reduce(self, values: Tensor) -> Tensor:
        return values.copy_(sum(self.board.exchange(self.rank, values.clone())))

    def all_reduce_max(self, numbers: Any) -> list[float]:
        return np.max(self.board.exchange(self.rank, list(numbers)), axis=0).tolist()

    def broadcast(self, value: Any) -> Any:
        return self.board.exchange(self.rank, value)[0]


def together(work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """What ``work`` gives on each rank."""
    board = Board()
    with ThreadPoolExecutor(WORLD) as pool:
        return list(pool.map(work, [Thread(rank, board) for rank in range(WORLD)]))


def molecules() -> hdf5.Dataset:
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 6, 20)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    positions = rng.normal(size=(offsets[-1], 3)) * 1.5
    targets = {
        "energy": hdf5.Target(rng.normal(size=20), "eV"),
        "mu": hdf5.Target(rng.gamma(2.0, size=20), "D"),
        "forces": hdf5.Target(rng.normal(size=positions.shape), "eV/Angstrom", "atom"),
    }
    parts = np.split(rng.permutation(20), [11, 18])
    split = dict(zip(("train", "valid", "test"), parts, strict=True))  # two to test: one rank idles
    numbers = rng.choice([1, 6, 8], offsets[-1])
    return hdf5.Dataset(
        "structures", numbers, positions, offsets, targets=targets, splits={"s": split}
    )


def particles() -> hdf5.Dataset:
    rng = np.random.default_rng(0)
    targets = {
        name: hdf5.Target(rng.normal(size=(60, 3)), "", "atom")
        for name in ("velocities", "positions_later")
    }
    targets["charges"] = hdf5.Target(rng.choice([-1.0, 1.0], 60), "e", "atom")
    split = {"train": np.arange(7), "valid": np.arange(7, 11), "test": np.arange(11, 12)}
    return hdf5.Dataset(
        "nbody", np.ones(60, int), rng.normal(size=(60, 3)), np.arange(0, 61, 5),
        targets=targets, splits={"s": split},
    )  # fmt: skip


@pytest.fixture
def densities(tmp_path: Path) -> hdf5.Dataset:
    with DensityWriter(tmp_path / "h.h5", "made up", spin=False) as writer:
        for length in np.linspace(0.6, 0.9, 9):
            atoms = ase.Atoms("HH", [[0, 0, 0], [length, 0, 0]])
            values = np.random.default_rng(0).random((5, 4, 6))
            writer.add(atoms, values, np.array([-1.0, -1.0, -1.0]), 0.5 * np.eye(3))
        writer.split(
            "s", {"train": np.arange(5), "valid": np.arange(5, 7), "test": np.arange(7, 9)}
        )
    return hdf5.read(tmp_path / "h.h5")


SMALL = {"hidden": 8, "layers": 2}
REQUESTS: dict[str, tuple[str, Request]] = {
    "two properties": (
        "egnn",
        Request(("energy", "mu"), config=SMALL | {"polarization": "frozen"}, dtype="float64"),
    ),
    "energy and forces": ("egnn", Request(("energy", "forces"), config=SMALL, dtype="float64")),
    "particles": ("egnn-nbody", Request(loss="l2", config=SMALL, dtype="float64")),
    "densities": ("deepdft-painn", Request(config=SMALL | {"probes": 8}, dtype="float64")),
}


def task_of(kind: str, densities: hdf5.Dataset) -> Any:
    made = {"particles": particles, "densities": lambda: densities}.get(kind, molecules)()
    name, request = REQUESTS[kind]
    return task_for(name, made, request)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("split", ["valid", "test"])
def test_errors_are_those_of_one(kind: str, split: str, densities: hdf5.Dataset) -> None:
    tasks = {rank: task_of(kind, densities) for rank in range(WORLD)}
    whole = task_of(kind, densities)
    alone = whole.evaluate(split, whole.model.eval(), lambda: None)

    def work(group: ProcessGroup) -> dict[str, float]:
        mine = tasks[group.rank]
        return mine.evaluate(split, mine.model.eval(), lambda: None, group)

    for found in together(work):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert found[name] == pytest.approx(value, rel=0, abs=1e-10)


def test_a_meeting_takes_no_notice_of_the_dead() -> None:
    """Three meet, in whatever order; what an earlier meeting left in the store is of others."""
    store, names = dist.HashStore(), set()
    for late in (0, 1, 2, None):

        def come(rank: int, late: int | None = late) -> str:
            time.sleep(0.1 * (rank == late))
            return agreed_name(store, rank, WORLD, 30.0)

        with ThreadPoolExecutor(WORLD) as pool:
            found = set(pool.map(come, range(WORLD)))
        assert len(found) == 1 and not found & names
        names |= found
    with pytest.raises(TimeoutError, match="not all of 3 processes came"):
        agreed_name(store, 0, WORLD, 0.1)


def test_who_launched_this(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun.launcher() == ""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    script = "import sys; from neupol_cli.distributed import torchrun; print(torchrun.launcher())"
    direct = [sys.executable, "-c", script]
    wrapped = ["sh", "-c", f"'{sys.executable}' -c '{script}'; true"]
    said = {
        subprocess.run(words, start_new_session=True, capture_output=True, text=True).stdout
        for words in (direct, wrapped)
    }
    assert len(said) == 1 and f" {os.getpid()} " in said.pop()


@pytest.mark.parametrize("kind", ["two properties", "particles"])
def test_steps_are_those_of_one(kind: str, densities: hdf5.Dataset) -> None:
    """With clipping, averages, a decay, weights that nothing reaches (in frozen points) and a batch
    that cannot be shared out evenly."""
    settings = Settings(
        steps=6, batch_size=7, lr=1e-2, ema=0.9, clip=0.1, optimizer="adamw", weight_decay=0.1
    )
    tasks = {rank: task_of(kind, densities) for rank in range(WORLD)}
    for rank in (1, 2):  # what the others begin with is not asked
        torch.nn.init.normal_(next(tasks[rank].model.parameters()))

    def trained(group: ProcessGroup, task: Any) -> Trainer:
        trainer = Trainer(task, settings, group)
        while not trainer.done():
            assert not trainer.agree(0)
            trainer.step()
        return trainer

    alone = trained(ALONE, task_of(kind, densities))
    several = together(lambda group: trained(group, tasks[group.rank]))
    expected = alone.window.take()
    for one in several:
        for name, value in alone.state()["model"].items():
            assert one.state()["model"][name].equal(several[0].state()["model"][name])
            torch.testing.assert_close(one.state()["model"][name], value, rtol=0, atol=1e-12)
        assert one.window.take() == pytest.approx(expected, rel=0, abs=1e-12)


def test_a_signal_for_one_and_the_time_of_the_first_are_everybodys() -> None:
    def work(group: ProcessGroup) -> tuple[int, float]:
        trainer = Trainer(task_for("egnn-nbody", particles(), REQUESTS["particles"][1]),
                          Settings(minutes=1, batch_size=3), group)  # fmt: skip
        trainer.now.elapsed = 100.0 * group.rank  # clocks that differ
        return trainer.agree(15 if group.rank == 2 else 0), trainer.progress().fraction

    answers = together(work)
    assert {number for number, _ in answers} == {15}
    assert len({fraction for _, fraction in answers}) == 1 and answers[0][1] < 1.0


def test_slabs_are_the_grid() -> None:
    grid = Grid(
        np.array([1.0, -2.0, 0.5]), np.array([[0.2, 0, 0], [0.1, 0.3, 0], [0, 0, 0.4]]), (7, 3, 2)
    )
    for count in (1, 2, 3, 7, 20):
        found = slabs(grid, count)
        assert len(found) == min(count, 7)
        points = np.concatenate([slab.points() for slab in found])
        np.testing.assert_allclose(points, grid.points(), rtol=0, atol=1e-12)


def started(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str, port: str = "1"
) -> ProcessGroup:
    values = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return process_group.started()


def test_who_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_group.started() is ALONE
    assert started(monkeypatch, "0", "1") is ALONE
    here = started(monkeypatch, "2", "4")
    assert (here.rank, here.world_size, here.is_main, torchrun.restarts()) == (2, 4, False, 0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert torchrun.restarts() == 3
    with pytest.raises(UsageError, match="neupol models is done by one process"):
        torchrun.alone("neupol models")
    for rank, world in (("a", "2"), ("2", "2"), ("-1", "2")):
        with pytest.raises(UsageError, match="RANK"):
            started(monkeypatch, rank, world)
    for port in ("abc", "70000"):
        with pytest.raises(UsageError, match=f"MASTER_PORT={port} is no"):
            started(monkeypatch, "0", "2", port)
    assert started(monkeypatch, "", "") is ALONE
    started(monkeypatch, "0", "2")
    monkeypatch.delenv("MASTER_PORT")  # of some other launcher
    assert process_group.started() is ALONE
