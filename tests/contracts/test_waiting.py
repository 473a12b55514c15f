"""On an accelerator the host sends work ahead, and a step of training asks for no number but these.

Counted on tests/accelerator.py, in the second step and the second prediction: the first makes
tables that stay. Weights are the CPU's, too: what an accelerator does otherwise is the same.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.base import Model
from neupol_cli.models.nn.graph import Graph
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.accelerator import NAME, accelerator, waits
from tests.contracts.conftest import DENSITY_CASES, SMALL, SMALL_DENSITIES, Case, DensityCase
from tests.training.test_pieces import molecules as labelled
from tests.training.test_pieces import particles

# How many pairs are closer than a cutoff, once a neighbour list: a movable point's is made anew
# behind each layer. Without a cutoff the counts of atoms, which the host has, say it.
LIST = "models/nn/neighbours.py:_closer tolist"
# How many edges of movable points have their reverse among them, and how many join points that
# touch: once a neighbour list, once more for the edges of the last layer, and once for the atoms'
# own, as long as points lie on them.
EDGES = "models/nn/graph.py:where_true nonzero"
# How many edges meet at one atom: it decides the sizes of blocks.
FANS = "models/dimenet/kernels/fans.py:_slots tolist"
BLOCKS = "models/distance_transformer/kernels/pair_blocks.py:of tolist"
WIDTH = "models/charge3net/neighbourhoods.py:_places _local_scalar_dense"
# How many edges reach the probes, and of one atom at most.
PROBES = "models/density/padded_edges.py:probe_edges tolist"
# Periodic: neighbours are sought on the CPU, where positions, cells and periodicity go; cells with
# open directions are completed there, for probes and for images, and images are counted.
VESIN = "models/nn/neighbours.py:_listed _to_copy"
CELLS = {
    "models/density/images.py:completed _to_copy": 4,
    "models/density/images.py:fractional_bounds _linalg_check_errors": 1,
    "models/density/images.py:periodic_images _linalg_check_errors": 1,
    "models/density/images.py:_box_points repeat_interleave": 1,
}

PROPERTIES: dict[str, dict[str, int]] = {
    "egnn-off": {},
    "egnn-frozen": {},
    "egnn-movable": {},
    "equivariant-transformer-off": {LIST: 1},
    "equivariant-transformer-frozen": {LIST: 1, EDGES: 1},
    "equivariant-transformer-movable": {LIST: 3, EDGES: 1},
    "equiformer-off": {LIST: 1, EDGES: 1},
    "equiformer-frozen": {LIST: 1, EDGES: 4},
    "equiformer-movable": {LIST: 2, EDGES: 4},
    "dimenet-off": {LIST: 1, FANS: 1},
    "painn-off": {LIST: 1},
    "painn-frozen": {LIST: 1, EDGES: 1},
    "painn-movable": {LIST: 3, EDGES: 1},
    "distance-transformer-off": {BLOCKS: 1},
    "distance-transformer-frozen": {BLOCKS: 2},
}


def after_two_steps(name: str, data: hdf5.Dataset, **request: Any) -> Trainer:
    settings = Settings(batch_size=6, steps=9, ema=0.9, clip=1.0, optimizer="adamw", cut=False)
    trainer = Trainer(task_for(name, data, Request(**request)), settings)
    trainer.step()
    trainer.step()
    return trainer


def of_a_step(name: str, data: hdf5.Dataset, **request: Any) -> Counter[str]:
    """Waits of the second step of training; the first one's are not looked at."""
    settings = Settings(batch_size=6, steps=9, ema=0.9, clip=1.0, optimizer="adamw")
    with accelerator():
        trainer = Trainer(task_for(name, data, Request(device=NAME, **request)), settings)
        trainer.step()
        with waits() as found:
            trainer.step()
        trainer.verify()
    return Counter(found)


@pytest.mark.parametrize("targets", [("energy",), ("energy", "mu"), ("energy", "forces")])
def test_a_step_of_properties(mode: Case, targets: tuple[str, ...]) -> None:
    config = SMALL[mode.name] | {"polarization": mode.mode}
    found = of_a_step(mode.name, labelled(), targets=targets, config=config)
    assert found == PROPERTIES[str(mode)]


@pytest.mark.parametrize("polarization", ["off", "movable"])
def test_a_step_of_particles(polarization: str) -> None:
    config = {"hidden": 8, "layers": 2, "polarization": polarization}
    assert not of_a_step("egnn-nbody", particles(), config=config)


@pytest.fixture(scope="module")
def densities(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, hdf5.Dataset]:
    """Six densities of hydrogen molecules, by whether their cells are periodic."""
    folder = tmp_path_factory.mktemp("waiting")
    return {periodic: written(folder / f"{periodic}.h5", periodic) for periodic in (False, True)}


def written(path: Path, periodic: bool) -> hdf5.Dataset:
    with DensityWriter(path, "made up", spin=True) as writer:
        for length in np.linspace(0.6, 0.9, 6):
            atoms = ase.Atoms("HH", [[0, 0, 0], [length, 0, 0]], cell=[3.5] * 3, pbc=periodic)
            values = np.random.default_rng(0).gamma(1.0, size=(7, 7, 7, 2))
            writer.add(atoms, values, np.full(3, -1.5), np.diag([0.5] * 3))
        writer.split("default", {"train": np.arange(6)})
    return hdf5.read(path)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_step_of_densities(
    density_case: DensityCase, periodic: bool, densities: dict[bool, hdf5.Dataset]
) -> None:
    name, settings = density_case.name, density_case.settings
    config = SMALL_DENSITIES[name] | {"probes": 16, "spin": False} | settings
    lists = 3 if settings.get("polarization") == "movable" else 1
    widths = {} if name.startswith("deepdft") else {WIDTH: lists}
    listed = {**CELLS, VESIN: 3 * lists} if periodic else {LIST: lists}
    # Which edges are a pair's two is counted where cells' images may join one pair twice.
    unique = {EDGES: 1} if periodic and name == "deepdft-painn" else {}
    expected = {**listed, **widths, **unique, PROBES: 1}
    assert of_a_step(name, densities[periodic], config=config) == expected


@pytest.mark.parametrize("forces", [False, True])
def test_a_prediction(mode: Case, forces: bool, molecules: list[ase.Atoms]) -> None:
    """The same, and the answers: values, and forces."""
    config = SMALL[mode.name] | {"polarization": mode.mode, "targets": ("U0",), "units": ("eV",)}
    with accelerator() as device:
        model: Any = registry.build(mode.name, config).to(device).eval()
        model.predict(molecules, forces=forces)
        with waits() as found:
            model.predict(molecules, forces=forces)
    answers = {"models/property.py:_evaluate _to_copy": 2 if forces else 1}
    assert Counter(found) == PROPERTIES[str(mode)] | answers


@pytest.mark.parametrize("case", [case for case in DENSITY_CASES if not case.choice], ids=str)
def test_densities_at_probes(case: DensityCase, molecules: list[ase.Atoms]) -> None:
    """Without derivatives too. Tiles of a grid ask for more: each for who reaches whom in it."""
    probes = torch.rand(3, 20, 3, generator=torch.Generator().manual_seed(0))
    with accelerator() as device, torch.no_grad():
        model: Any = registry.build(case.name, SMALL_DENSITIES[case.name]).to(device).eval()
        graph = Graph.from_atoms(molecules, torch.float32, device)
        model(graph, probes.to(device))
        with waits() as found:
            model(graph, probes.to(device, non_blocking=True))
    widths = {} if case.name.startswith("deepdft") else {WIDTH: 1}
    assert Counter(found) == {LIST: 1, **widths, PROBES: 1}


def weights(model: Model) -> list[torch.Tensor]:
    return [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("targets", [("energy",), ("energy", "forces")])
def test_weights_are_the_same(mode: Case, targets: tuple[str, ...]) -> None:
    """float64: what differs is the order of sums, in tiles for a cache or in a whole."""
    config = SMALL[mode.name] | {"polarization": mode.mode}
    if mode.name == "equiformer":
        config |= {"alpha_drop": 0.0}  # drawn edge by edge, in the order of tiles
    request = {"targets": targets, "config": config, "dtype": "float64", "references": "none"}
    expected = weights(after_two_steps(mode.name, labelled(), **request).model)
    with accelerator():
        found = weights(after_two_steps(mode.name, labelled(), device=NAME, **request).model)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_grids_are_the_same(density_case: DensityCase, crystal: ase.Atoms) -> None:
    """Tile by tile, in float64: every function at every edge."""
    crystal.numbers[:] = (6, 8, 1)
    step = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, -0.2], [0.3, 0.0, 1.1]])
    grid = Grid(np.array([-1.0, -1.2, -0.7]), step, (4, 5, 3))
    expected = density_case.build().density_grid(crystal, grid)
    with accelerator() as device:
        found = density_case.build().to(device).density_grid(crystal, grid).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("periodic", [False, True])
def test_weights_of_densities_are_the_same(
    density_case: DensityCase, periodic: bool, densities: dict[bool, hdf5.Dataset]
) -> None:
    config = SMALL_DENSITIES[density_case.name] | {"probes": 16, "spin": False}
    request = {"config": config | density_case.settings, "dtype": "float64"}
    data = densities[periodic]
    expected = weights(after_two_steps(density_case.name, data, **request).model)
    with accelerator():
        found = weights(after_two_steps(density_case.name, data, device=NAME, **request).model)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
