"""DeepDFT learns densities through the same task as every density network."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.training.density_task import METRIC
from neupol_cli.training.request import Request
from neupol_cli.training.tasks import task_for

SIZES = {"hidden": 16, "layers": 1, "probes": 64, "cutoff": 3.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six hydrogen molecules of different lengths, a Gaussian an atom."""
    path = tmp_path_factory.mktemp("deepdft") / "hydrogen.h5"
    with DensityWriter(path, "made up", spin=False) as writer:
        for length in np.linspace(0.6, 0.9, 6):
            atoms = ase.Atoms("HH", [[0, 0, 0], [length, 0, 0]])
            step, origin = np.diag([0.5, 0.5, 0.5]), np.array([-1.5, -1.5, -1.5])
            points = origin + np.stack(np.indices((9, 7, 7)), -1) * 0.5
            apart = np.linalg.norm(points[..., None, :] - atoms.positions, axis=-1)
            writer.add(atoms, np.exp(-1.5 * apart**2).sum(-1), origin, step)
        parts = {"train": [0, 2, 3, 5], "valid": [1], "test": [4]}
        writer.split("default", {name: np.array(part) for name, part in parts.items()})
    return hdf5.read(path)


@pytest.mark.parametrize("name", ["deepdft-schnet", "deepdft-painn"])
def test_errors_fall(data, name: str) -> None:
    task = task_for(name, data, Request(config=SIZES))
    before = task.evaluate("test", task.model, lambda: None)[METRIC]
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = task.loss(torch.arange(4), generator)
        loss.backward()
        optimizer.step()
    assert task.evaluate("test", task.model, lambda: None)[METRIC] < 0.5 * before
    assert task.evaluate("valid", task.model, lambda: None)[METRIC] < 0.5 * before
