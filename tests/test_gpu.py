"""On a GPU: every network says there what it says on a CPU, and learns the same; `make gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli import registry
from neupol_cli.io import hdf5
from neupol_cli.models.charge3net.kernels.probe_sums import ProbeSums
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.contracts.conftest import (
    CASES,
    DENSITY_CASES,
    SMALL,
    SMALL_DENSITIES,
    Case,
    DensityCase,
)
from tests.contracts.test_waiting import after_two_steps, weights, written
from tests.training.test_pieces import molecules as labelled
from tests.training.test_pieces import particles

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
# Of the largest number of an answer: sums are in another order there.
APART = {torch.float64: 1e-10, torch.float32: 2e-5}
MODES = [case for case in CASES if not case.encoding]


@dataclass(frozen=True)
class Box:
    """A grid around a molecule."""

    origin: np.ndarray
    step: np.ndarray
    shape: tuple[int, int, int]


BOX = Box(np.full(3, -3.0), np.diag([0.5, 0.45, 0.55]), (14, 15, 13))


def assert_close(found: Any, expected: Any, apart: float) -> None:
    found, expected = (torch.as_tensor(x).detach().cpu().double() for x in (found, expected))
    atol = apart * (1 + float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def structures() -> list[ase.Atoms]:
    made = [molecule(name) for name in ("CH3OH", "H2O", "CH3CONH2")]
    for k, atoms in enumerate(made):
        atoms.rattle(0.05, seed=k)
    return made


@pytest.fixture(params=APART, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("case", CASES, ids=str)
def test_predictions_and_forces(case: Case, dtype: torch.dtype) -> None:
    model = case.build(targets=("U0", "mu"), units=("eV", "D")).to(dtype)
    expected = model.predict(structures(), forces=True)
    found = model.to(DEVICE).predict(structures(), forces=True)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_close(found[name], expected[name], APART[dtype])


@pytest.mark.parametrize("targets", [("energy",), ("energy", "forces")])
@pytest.mark.parametrize("case", MODES, ids=str)
def test_steps_of_properties(case: Case, targets: tuple[str, ...], dtype: torch.dtype) -> None:
    config = SMALL[case.name] | {"polarization": case.mode}
    if case.name == "equiformer":
        config |= {"alpha_drop": 0.0}  # each device draws its own
    same_weights(case.name, labelled(), dtype, targets=targets, config=config, references="none")


@pytest.mark.parametrize("polarization", ["off", "movable"])
def test_steps_of_particles(polarization: str, dtype: torch.dtype) -> None:
    config = {"hidden": 16, "layers": 3, "polarization": polarization}
    same_weights("egnn-nbody", particles(), dtype, config=config)


def same_weights(name: str, data: hdf5.Dataset, dtype: torch.dtype, **request: Any) -> None:
    """After two steps; Adam's are nearly signs of gradients, which float32 may miss at zero."""
    request |= {"dtype": str(dtype).removeprefix("torch.")}
    expected = weights(after_two_steps(name, data, **request).model)
    found = weights(after_two_steps(name, data, device=DEVICE, **request).model)
    if dtype == torch.float32:
        assert mean_apart(found, expected) < 1e-5
        return
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def mean_apart(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).mean())


@pytest.mark.parametrize("case", DENSITY_CASES, ids=str)
def test_densities(case: DensityCase, dtype: torch.dtype, crystal: ase.Atoms) -> None:
    """On a grid, in float32 by the Triton kernel; of a crystal too."""
    model = case.build().to(dtype)
    crystal.numbers[:] = (6, 8, 1)
    for atoms in (structures()[0], crystal):
        expected = model.to("cpu").density_grid(atoms, BOX)
        found = model.to(DEVICE).density_grid(atoms, BOX)
        assert_close(found, expected, APART[dtype])
    assert not ProbeSums.failed


def test_the_probe_kernel_and_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both on the GPU, of the bundled model."""
    model: Any = registry.load("density", DEVICE, torch.float32)
    features = model.atom_features(structures()[0])
    found = model.density_grid(features, BOX)
    assert not ProbeSums.failed
    monkeypatch.setattr(ProbeSums, "failed", True)
    assert_close(found, model.density_grid(features, BOX), 5e-6)


@pytest.fixture(scope="module")
def densities(tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, hdf5.Dataset]:
    folder: Path = tmp_path_factory.mktemp("gpu")
    return {periodic: written(folder / f"{periodic}.h5", periodic) for periodic in (False, True)}


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("case", DENSITY_CASES, ids=str)
def test_gradients_of_densities(
    case: DensityCase, periodic: bool, densities: Mapping[bool, hdf5.Dataset]
) -> None:
    """At probes that the CPU drew, in float64: a GPU draws others."""
    config = SMALL_DENSITIES[case.name] | {"probes": 16, "spin": False} | case.settings
    data, chosen = densities[periodic], torch.arange(4)
    task: Any = task_for(case.name, data, Request(config=config, dtype="float64"))
    graph = task.arrays.graph(chosen)[0]
    rows, _ = task.draw(chosen, 16, torch.Generator().manual_seed(0))
    probes, found = task.grids.points(chosen, rows), []
    for device in ("cpu", DEVICE):
        model = task.model.to(device)
        there = {
            name: value.to(device) if name != "on_host" else value
            for name, value in vars(graph).items()
            if value is not None
        }
        loss = model(type(graph)(**there), probes.to(device)).square().mean()
        found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert (on_cpu is None) == (on_gpu is None)
        if on_cpu is not None:
            assert_close(on_gpu, on_cpu, 1e-9)


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Within, to wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["egnn", "egnn-nbody"])
def test_a_step_waits_for_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """Where sizes follow from the data, PyTorch's own kernels do not ask for any either."""
    targets, data = (("energy",), labelled()) if name == "egnn" else ((), particles())
    config = {"hidden": 16, "layers": 2, "polarization": "movable"}
    asked = Request(targets=targets, config=config, references="none", device=DEVICE)
    trainer = Trainer(task_for(name, data, asked), Settings(batch_size=6, steps=9, ema=0.9))
    trainer.step()
    request.getfixturevalue("no_waits")
    trainer.step()
