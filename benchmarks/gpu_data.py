"""What benchmarks/gpu_parts.py trains on, made here: structures of G2, labels at random."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from checkouts import molecules
from density_speed import around

from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter

STRUCTURES = 512


def labelled(count: int = STRUCTURES) -> hdf5.Dataset:
    """G2 molecules over and over, shaken, with random energies."""
    rng = np.random.default_rng(0)
    some = molecules(count)
    structures = [some[k % len(some)].copy() for k in range(count)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
    return hdf5.Dataset(
        "structures",
        np.concatenate([s.numbers for s in structures]),
        np.concatenate([s.positions for s in structures]),
        offsets,
        targets={"energy": hdf5.Target(rng.normal(size=count), "eV")},
        splits={"all": {"train": np.arange(count)}},
        source="G2, random labels",
    )


def particles(systems: int = STRUCTURES, count: int = 5) -> hdf5.Dataset:
    """Random systems of five charged particles."""
    rng, size = np.random.default_rng(0), systems * count
    shapes = {"velocities": (3,), "charges": (), "positions_later": (3,)}
    targets = {k: hdf5.Target(rng.normal(size=(size, *s)), "", "atom") for k, s in shapes.items()}
    return hdf5.Dataset(
        "nbody", np.ones(size, int), rng.normal(size=(size, 3)), np.arange(0, size + 1, count),
        targets=targets, splits={"all": {"train": np.arange(systems)}}, source="random",
    )  # fmt: skip


def densities(count: int = 16, side: int = 24) -> hdf5.Dataset:
    """Random densities on grids of side^3 points around G2 molecules."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "densities.h5"
        with DensityWriter(path, "random", spin=False) as writer:
            for atoms in molecules(count):
                grid = around(atoms, side)
                writer.add(atoms, rng.gamma(1.0, size=grid.shape), grid.origin, grid.step)
            writer.split("all", {"train": np.arange(count)})
        return hdf5.read(path)
