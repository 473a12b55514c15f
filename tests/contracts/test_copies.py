"""Every network trains to the same bits by copies of the process as by the process itself.

What a copy reads is what was there when it was forked, and what is shared with it or sent to it:
whatever else a task came to change while it is trained, one of these would see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from neupol_cli import registry
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models import workers
from neupol_cli.models.base import DynamicsModel
from neupol_cli.training import calibrating
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.task import Task
from neupol_cli.training.tasks import task_for
from tests.conftest import Alone
from tests.contracts.conftest import (
    DENSITY_CASES,
    MODES,
    SMALL,
    SMALL_DENSITIES,
    DensityCase,
)
from tests.training.small import Weights, hydrogens, molecules, particles, same, weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")

STEPS, VALIDATED = 5, 3
DYNAMICS = [entry.name for entry in registry.ENTRIES.values() if entry.task == "dynamics"]
PARTICLES: list[dict[str, Any]] = [{}, {"polarization": "movable"}]
# What tasks know beside their losses' plain sums, each with a network that can have it.
PROPERTIES: list[dict[str, Any]] = [
    {"targets": ("energy", "mu"), "smoothness": 0.1, "loss": "l2"},
    {"targets": ("energy", "forces")},
]


def task(name: str, data: Dataset, config: dict[str, Any], **more: Any) -> Task:
    request = Request(config=config, dtype="float64", references="none", **more)
    made = task_for(name, data, request)
    made.grain = 2
    return made


def children() -> int:
    """How many processes this one has started that run."""
    this = os.getpid()
    return len(Path(f"/proc/{this}/task/{this}/children").read_text().split())


def trained(make: Callable[[], Task], threads: int) -> tuple[Weights, dict[str, float]]:
    """The weights after some steps, with what tells how far off they are, and the errors of a
    validation between the steps."""
    workers.use(threads)
    known, learnt, here = children(), make(), []
    settings = Settings(batch_size=6, steps=STEPS, ema=0.9, clip=1.0, optimizer="adamw")
    one, loss = Trainer(learnt, settings), learnt.loss
    learnt.loss = lambda *words: here.append(words) or loss(*words)  # type: ignore[method-assign]
    with one.apart():
        assert children() - known == (threads if threads > 1 else 0)
        for step in range(STEPS):
            if step == VALIDATED:
                one.evaluate(lambda: None)
            one.step()
    assert children() == known
    assert len(here) == (0 if threads > 1 else 2 * STEPS)  # a batch of six has two pieces
    with one.eval_mode() as model:
        calibration = learnt.calibrate(model, lambda: None)
        assert calibration or isinstance(model, DynamicsModel)
    return weights(one) | calibration, one.now.valid


def held_to_it(make: Callable[[], Task]) -> None:
    """In a process of its own; a few unseen structures tell how far off a network is."""
    with patch.object(calibrating, "FEWEST", 2):
        one, found = trained(make, 1)
        both, again = trained(make, 2)
    assert found and found == again
    same(both, one)


def of_densities(name: str, path: Path, config: dict[str, Any], **more: Any) -> Task:
    return task(name, hydrogens(path, spin=bool(config.get("spin"))), config, **more)


@pytest.mark.parametrize("more", PROPERTIES, ids=lambda more: "-".join(more["targets"]))
@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name in SMALL for mode in MODES[name]])
def test_properties(name: str, mode: str, more: dict[str, Any], alone: Alone) -> None:
    config = SMALL[name] | {"polarization": mode, "encoding": "learned"}
    alone(held_to_it, partial(task, name, molecules(), config, **more))


@pytest.mark.parametrize("case", DENSITY_CASES, ids=str)
def test_densities(case: DensityCase, tmp_path: Path, alone: Alone) -> None:
    config = SMALL_DENSITIES[case.name] | {"probes": 12, "sampling_exponent": 0.5} | case.settings
    rough = {"smoothness": 0.1} if config.get("encoding") == "learned" else {}
    alone(held_to_it, partial(of_densities, case.name, tmp_path / "h.h5", config, **rough))


@pytest.mark.parametrize("config", PARTICLES, ids=str)
@pytest.mark.parametrize("name", DYNAMICS)
def test_dynamics(name: str, config: dict[str, Any], alone: Alone) -> None:
    sizes = {"hidden": 8, "layers": 2}
    alone(held_to_it, partial(task, name, particles(), sizes | config))
