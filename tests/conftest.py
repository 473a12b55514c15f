"""What many tests share: published values, small checkpoints, the command as a user runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import checkpoint, registry, signals
from tests import warm

DATA = Path(__file__).parent / "data"

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests are shared out to several processes (-n), these share one server."""
    if config.getoption("numprocesses", None) and warm.SHARED not in os.environ:
        os.environ[warm.SHARED] = warm.server().folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked ``gpu`` wants one."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU that PyTorch can use"))


@pytest.fixture(autouse=True)
def no_signal_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a command has one life; tests that send a signal to this one leave no trace."""
    monkeypatch.setattr(signals, "_received", [])


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """What is the whole process' is afterwards as it was, or the test that changed it fails."""
    before = _of_the_process()
    yield
    after = _of_the_process()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    assert after == before


def _of_the_process() -> tuple[object, ...]:
    handlers = [signal.getsignal(number) for number in signals.NUMBERS]
    return torch.get_default_dtype(), torch.is_grad_enabled(), handlers


Alone = Callable[..., Any]  # a function and what it is given


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    """Calls a function of a module in a process where no other test has been: once there is an
    accelerator, or what passes for one, PyTorch differentiates in no copy of a process any more."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda work, *given: pool.submit(work, *given).result()


class Parity:
    """One file of values that a published implementation computed (tests/data/parity)."""

    def __init__(self, name: str) -> None:
        with np.load(DATA / "parity" / f"{name}.npz") as stored:
            self.arrays = dict(stored)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    @property
    def config(self) -> dict[str, Any]:
        """The published arguments."""
        return json.loads(str(self.arrays["config"]))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The published weights by their published names."""
        prefix = "weights/"
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def structures(self) -> list[ase.Atoms]:
        """The structures of the file."""
        numbers, positions, batch = (self[key] for key in ("numbers", "positions", "batch"))
        return [ase.Atoms(numbers[batch == k], positions[batch == k]) for k in np.unique(batch)]

    def model(self, name: str) -> Any:
        """Our network with the published weights."""
        return registry.from_published(name, self.weights, self.config)


@pytest.fixture(scope="session")
def parity() -> Callable[[str], Parity]:
    """Opens a file of published values by name."""
    return Parity


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def neupol() -> Run:
    """Runs the command in a process of its own: ``neupol("predict", file, input=text)``."""
    return warm.neupol


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a small checkpoint with random weights: ``untrained("egnn", seed=1, layers=2)``."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(name: str = "egnn", seed: int = 0, **config: Any) -> Path:
        torch.manual_seed(seed)
        settings = {
            "targets": ("U0", "mu"),
            "units": ("eV", "D"),
            "hidden": 8,
            "layers": 2,
        } | config
        model = registry.build(name, settings)
        path = folder / f"{name}{len(list(folder.iterdir()))}.safetensors"
        units = dict(zip(settings["targets"], settings["units"], strict=True))
        checkpoint.save(path, name, model, {"targets": units})
        return path

    return make
