"""A batch in pieces on threads: the same loss and gradients as whole, to the bit however many
threads there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli.errors import TemporaryError
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.models import workers
from neupol_cli.models.nn.dropout import drawn_from, dropout
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.contracts.conftest import SMALL
from tests.training.toy import ToyTask


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before, threads = workers.workers(), torch.get_num_threads()
    yield
    workers.use(before)
    torch.set_num_threads(threads)


def molecules() -> hdf5.Dataset:
    """Twenty heaps of two to five atoms with an energy, a dipole's length and forces."""
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 6, 20)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    atoms = int(offsets[-1])
    positions = rng.normal(size=(atoms, 3)) * 1.5
    targets = {
        "energy": hdf5.Target(rng.normal(size=20), "eV"),
        "mu": hdf5.Target(rng.gamma(2.0, size=20), "D"),
        "forces": hdf5.Target(rng.normal(size=(atoms, 3)), "eV/Angstrom", "atom"),
    }
    split = {"train": np.arange(14), "valid": np.arange(14, 17), "test": np.arange(17, 20)}
    numbers = rng.choice([1, 6, 8], atoms)
    return hdf5.Dataset(
        "structures", numbers, positions, offsets, targets=targets, splits={"s": split},
        references={}, source="random",
    )  # fmt: skip


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
    one = trainer(name, targets, 1, **more)
    indices = torch.tensor([3, 0, 12, 7, 9, 1, 5])
    loss, parts = one._whole(indices)
    whole = [None if p.grad is None else p.grad.clone() for p in one.parameters]
    one.optimizer.zero_grad(set_to_none=True)
    workers.use(3)
    total, sums = one._summed(indices, indices.tensor_split(3))
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
    path = tmp_path_factory.mktemp("pieces") / "h.h5"
    with DensityWriter(path, "made up", spin=False) as writer:
        for length in np.linspace(0.6, 0.9, 6):
            atoms = ase.Atoms("HH", [[0, 0, 0], [length, 0, 0]])
            values = np.random.default_rng(0).gamma(1.0, size=(7, 7, 7))
            writer.add(atoms, values, np.full(3, -1.5), np.diag([0.5] * 3))
        writer.split("default", {"train": np.arange(6)})
    return hdf5.read(path)


def particles() -> hdf5.Dataset:
    rng = np.random.default_rng(1)
    targets = {
        name: hdf5.Target(rng.normal(size=(30, *shape)), "", "atom")
        for name, shape in (("velocities", (3,)), ("charges", ()), ("positions_later", (3,)))
    }
    return hdf5.Dataset(
        "nbody", np.ones(30, int), rng.normal(size=(30, 3)), np.arange(0, 31, 5), targets=targets,
        splits={"s": {"train": np.arange(6)}}, references={}, source="random",
    )  # fmt: skip


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


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_threads_change_no_bit(ema: float) -> None:
    """Dropout and noise, seven pieces a step: the weights after ten steps."""

    def trained(threads: int) -> dict[str, torch.Tensor]:
        workers.use(threads)
        task = ToyTask()
        task.grain = 1
        one = Trainer(task, Settings(batch_size=7, steps=10, lr=1e-2, ema=ema))
        for _ in range(10):
            one.step()
        return {name: value.clone() for name, value in one.model.state_dict().items()}

    alone = trained(1)
    for threads in (2, 5):
        together = trained(threads)
        assert all(torch.equal(together[name], alone[name]) for name in alone)
    workers.use(1)
    task = ToyTask()
    other = Trainer(task, replace(Settings(batch_size=7, steps=10, lr=1e-2, ema=ema), cut=False))
    for _ in range(10):
        other.step()  # draws other numbers: pieces were at work above
    assert not torch.equal(other.model.state_dict()["first.weight"], alone["first.weight"])


def test_a_fault_in_a_piece_is_raised_as_it_is() -> None:
    task = ToyTask()
    task.grain = 1

    def fails(loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    task.trouble = fails
    workers.use(2)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with pytest.raises(TemporaryError, match="out of memory with --batch-size 7"):
        Trainer(task, Settings(batch_size=7, steps=10)).step()
    assert all(torch.equal(v, before[name]) for name, v in task.model.state_dict().items())


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
