"""Data that a network learns from in milliseconds, and all that a training changes."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import torch

from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.training.loop import Trainer

Weights = dict[str, torch.Tensor]


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


def hydrogens(path: Path, spin: bool = False) -> hdf5.Dataset:
    """Molecules of hydrogen with noise for a density, six of them to learn from."""
    with DensityWriter(path, "made up", spin=spin) as writer:
        for length in np.linspace(0.6, 0.9, 8):
            atoms = ase.Atoms("HH", [[0, 0, 0], [length, 0, 0]])
            size = (7, 7, 7, 2) if spin else (7, 7, 7)
            values = np.random.default_rng(0).gamma(1.0, size=size)
            writer.add(atoms, values, np.full(3, -1.5), np.diag([0.5] * 3))
        writer.split("default", {"train": np.arange(6), "valid": np.arange(6, 8)})
    return hdf5.read(path)


def particles() -> hdf5.Dataset:
    """Systems of five particles, six of them to learn from."""
    rng = np.random.default_rng(1)
    targets = {
        name: hdf5.Target(rng.normal(size=(40, *shape)), "", "atom")
        for name, shape in (("velocities", (3,)), ("charges", ()), ("positions_later", (3,)))
    }
    split = {"train": np.arange(6), "valid": np.arange(6, 8)}
    return hdf5.Dataset(
        "nbody", np.ones(40, int), rng.normal(size=(40, 3)), np.arange(0, 41, 5), targets=targets,
        splits={"s": split}, references={}, source="random",
    )  # fmt: skip


def weights(one: Trainer) -> Weights:
    """All that a trainer changes: the model's state, averages, moments and sums of losses."""
    tensors = {f"model.{name}": value for name, value in one.model.state_dict().items()}
    tensors |= {f"average.{k}": value for k, value in enumerate(one.ema.values if one.ema else [])}
    for k, kept in enumerate(one.optimizer.state.values()):
        tensors |= {f"moment.{k}.{name}": value for name, value in kept.items()}
    return {name: value.clone() for name, value in tensors.items()} | {"losses": one.window.sums}


def same(some: Weights, others: Weights) -> None:
    """Fails where two of them are not equal to the bit."""
    assert some.keys() == others.keys()
    assert [name for name in some if not torch.equal(some[name], others[name])] == []
