"""Densities per second: ChargE3Net here against its published implementation, and with size.

    python benchmarks/density_speed.py --published PATH [--structure FILE] [--probes N] [--device D]
    python benchmarks/density_speed.py --published PATH --job N [--structure FILE] [--device D]
    python benchmarks/density_speed.py --supercells 1,2,4,10

The first compares one grid around a molecule: the same random weights of the paper's size in both,
one thread, one process, neighbour work included on both sides, blocks kept on the heap for both.
The published code is slow, so it computes N random points of the grid and its time is scaled to
the whole; ours computes the whole grid, and the two are compared at those points. PATH is a clone
of github.com/AIforGreatGood/charge3net. Times are CPU seconds of the process, so that other work
on the machine does not count; both sides run twice, in turn, and the faster run counts. With
--device cuda both networks are on the card, the published code's neighbour search stays on the CPU
as it has no other, and times are seconds of the clock until the card has finished.

The second compares a small job: both sides compute the same N random points in the box of that
grid, from the structure on, atoms included. Tables of neupol's that depend on the weights alone are
there from the call that warms both sides up; ``first call`` is one that has to make them, too.

The third computes BaVS3 supercells. Above LARGEST points the grid is sampled: random blocks of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import device_clock, in_turns

HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
HEAP |= {"MALLOC_TOP_PAD_": "400000000", "OMP_NUM_THREADS": "1"}
PAPER = {"mul": 500, "lmax": 4, "num_interactions": 3, "num_basis": 20, "cutoff": 4.0}
SIDE, MARGIN = 60, 3.6  # points a side; Angstrom around the molecule
LARGEST = 1_000_000
BATCH = 2500  # probes that the published code takes at a time


@dataclass(frozen=True)
class Grid:
    """origin (3,), step (3, 3) with voxel vectors as rows, Angstrom, and shape."""

    origin: Any
    step: Any
    shape: tuple[int, int, int]


def around(atoms: Any, side: int) -> Grid:
    """side^3 points over a molecule's box and its margin."""
    import numpy as np

    low = atoms.positions.min(0) - MARGIN
    span = atoms.positions.max(0) + MARGIN - low
    return Grid(low, np.diag(span / (side - 1)), (side, side, side))


def points(grid: Grid) -> Any:
    """(P, 3) all points, the last index fastest."""
    import numpy as np

    index = np.stack(np.unravel_index(np.arange(np.prod(grid.shape)), grid.shape), 1)
    return grid.origin + index @ grid.step


def published_model(path: Path, device: str) -> Any:
    """The published network with random weights."""
    import torch

    sys.path.insert(0, str(path))
    # Its data package imports readers of formats that nothing here needs.
    package = types.ModuleType("src.charge3net.data")
    package.__path__ = [str(path / "src" / "charge3net" / "data")]
    sys.modules[package.__name__] = package
    from src.charge3net.models.e3 import E3DensityModel

    torch.manual_seed(0)
    return E3DensityModel(num_neighbors=20, basis="gaussian", **PAPER).eval().to(device)


def published_density(model: Any, atoms: Any, probes: Any) -> Any:
    """The published code on (M, 3) probes, its own neighbour search included."""
    import numpy as np
    import torch
    from src.charge3net.data.graph_construction import KdTreeGraphConstructor

    device = next(model.parameters()).device
    build = KdTreeGraphConstructor(cutoff=PAPER["cutoff"], num_probes=None, disable_pbc=True)
    densities = []
    with torch.no_grad():
        for part in np.array_split(probes, -(-len(probes) // BATCH)):
            graph = build(np.zeros(len(part)), atoms, part)
            batch = {key: value[None].to(device) for key, value in graph.items()}
            densities.append(model(batch).reshape(-1))
    return torch.cat(densities)


def ours_from(model: Any) -> Any:
    """Our network with the published one's weights."""
    from neupol_cli.models.charge3net.network import ChargE3Net

    device = next(model.parameters()).device
    ours = ChargE3Net.from_published(model.state_dict(), {**PAPER, "num_neighbors": 20})
    return ours.to(device)


def compare(path: Path, atoms: Any, count: int, device: str) -> dict[str, Any]:
    """Both implementations on one grid, on the same device."""
    import numpy as np
    import torch

    theirs = published_model(path, device)
    ours = ours_from(theirs)
    grid = around(atoms, SIDE)
    everything = points(grid)
    chosen = np.sort(np.random.default_rng(0).choice(len(everything), count, replace=False))
    sides = {
        "published": lambda: published_density(theirs, atoms, everything[chosen]),
        "neupol": lambda: ours.density_grid(ours.atom_features(atoms), grid),
    }
    turns = in_turns(sides, 2, clock=device_clock(device))
    reference, density = turns.results["published"], turns.results["neupol"]
    best = [turns.fastest(side) for side in sides]
    rows = torch.from_numpy(chosen).to(device)
    wrong = (density[rows] - reference).abs().max() / reference.abs().max()
    rates = (count / best[0], len(everything) / best[1])
    return {
        "structure": str(atoms.symbols),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "points": len(everything),
        "published points": count,
        "published probes/s": rates[0],
        "neupol probes/s": rates[1],
        "neupol seconds": best[1],
        "ratio": rates[1] / rates[0],
        "largest difference / largest density": float(wrong),
    }


def compare_job(path: Path, atoms: Any, count: int, device: str, rounds: int) -> dict[str, Any]:
    """Both implementations from a structure to its density at the same random points."""
    import copy

    import numpy as np
    import torch

    theirs = published_model(path, device)
    ours = ours_from(theirs)
    corner, span = atoms.positions.min(0) - MARGIN, np.ptp(atoms.positions, axis=0) + 2 * MARGIN
    probes = corner + span * np.random.default_rng(0).random((count, 3))
    given = torch.from_numpy(probes)
    fresh = copy.deepcopy(ours)  # its tables are not made yet
    sides = {
        "published": lambda: published_density(theirs, atoms, probes),
        "neupol": lambda: ours.density(atoms, given),
    }
    turns = in_turns(sides, rounds, clock=device_clock(device))
    clock = device_clock(device)
    start = clock()
    fresh.density(atoms, given)
    first = clock() - start
    reference, density = turns.results["published"], turns.results["neupol"]
    wrong = (density - reference).abs().max() / reference.abs().max()
    return {
        "structure": str(atoms.symbols),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "random probes": count,
        "published seconds": turns.fastest("published"),
        "neupol seconds": turns.fastest("neupol"),
        "neupol seconds, median": turns.median("neupol"),
        "neupol seconds, first call": first,
        "ratio": turns.fastest("published") / turns.fastest("neupol"),
        "ratios of the rounds": turns.ratio_line("published", "neupol"),
        "largest difference / largest density": float(wrong),
    }


def supercell(network: Any, times: int, memory: int) -> dict[str, Any]:
    """Cost a probe in a times^3 supercell."""
    import numpy as np

    from neupol_cli.runtime.cases import bavs3, sampled

    cell = bavs3()
    atoms = cell.repeat(times)
    shape = (24 * times, 24 * times, 20 * times)
    grid = Grid(np.zeros(3), atoms.cell.array / np.array(shape)[:, None], shape)
    start = time.process_time()
    features = network.atom_features(atoms)
    atom_seconds = time.process_time() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocks = sampled(grid, 40, times, LARGEST)
    probes = sum(int(np.prod(block.shape)) for block in blocks)

    start = time.process_time()
    for block in blocks:
        network.density_grid(features, block, memory=memory)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "supercell": f"{times}^3",
        "atoms": len(atoms),
        "grid points": int(np.prod(shape)),
        "computed": probes,
        "atom seconds": atom_seconds,
        "microseconds a probe": 1e6 * seconds / probes,
        "peak MB": peak / 1024,
        "of it for the probes": (peak - before) / 1024,
    }


def scale(sizes: list[int], memory: int) -> list[dict[str, Any]]:
    """Supercells of the sizes given, with random weights of the paper's size."""
    import torch

    from neupol_cli.models.charge3net.network import ChargE3Net, ChargE3NetConfig

    torch.manual_seed(0)
    network = ChargE3Net(ChargE3NetConfig(species=(16, 23, 56), embedding=119))
    supercell(network, 1, memory)  # the first call makes tables and warms caches
    return [supercell(network, times, memory) for times in sizes]


def main() -> None:
    """Runs what was options for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path)
    parser.add_argument("--structure", type=Path)
    parser.add_argument("--probes", type=int, default=5000)
    parser.add_argument("--job", type=int, help="a job of so many random probes instead of a grid")
    parser.add_argument("--rounds", type=int, default=5, help="of a job")
    parser.add_argument("--device", default="cpu", help="of the comparison: cpu, cuda, cuda:1")
    parser.add_argument("--supercells", default="")
    parser.add_argument("--memory", type=int, default=1 << 30)
    chosen = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in HEAP.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HEAP})
    import ase.build
    import ase.io
    import torch

    torch.set_num_threads(1)
    if chosen.published:
        molecule = ase.build.molecule("C6H6")
        atoms = ase.io.read(chosen.structure) if chosen.structure else molecule
        if chosen.job:
            given = chosen.published, atoms, chosen.job, chosen.device, chosen.rounds
            report = compare_job(*given)
        else:
            report = compare(chosen.published, atoms, chosen.probes, chosen.device)
        print(json.dumps(report, indent=1), flush=True)
    for times in filter(None, chosen.supercells.split(",")):
        print(json.dumps(scale([int(times)], chosen.memory)[0], indent=1), flush=True)


if __name__ == "__main__":
    main()
