"""The parts of benchmarks/gpu.py that measure; each prints a JSON object a line.

    python benchmarks/gpu_parts.py PART --seconds S [--device cuda]

PART: waits (what a step of training makes the host wait for), rates (training and inference at
published sizes, as written, as one CUDA graph, and EGNN by torch.compile), density (grids of 10^8
points, 10,000 atoms).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ase
import ase.io
import torch
from density_speed import around
from gpu_data import densities, labelled, particles
from torch import Tensor

from neupol_cli import registry
from neupol_cli.errors import TemporaryError, out_of_memory
from neupol_cli.io import hdf5
from neupol_cli.models.nn.graph import Graph
from neupol_cli.runtime.timing import peak, reset_peak, synchronise
from neupol_cli.training.loop import Trainer
from neupol_cli.training.presets import presets
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for

Said = Iterator[dict[str, Any]]
# Presets of properties and particles, of one size each; movable points with the first two.
NETWORKS = ("egnn-qm9", "et-qm9", "equiformer-qm9", "dimenet-qm9", "transformer-md17")
PARTICLES = ("egnn-nbody", "egnn-nbody-np")
DENSITIES = ("charge3net-qm9", "deepdft-schnet", "deepdft-painn")
COMPILED = "egnn-qm9"
POINTS = 100_000_000
REPEATS = 20
UREA = Path(__file__).resolve().parents[1] / "examples" / "urea.poscar"


class OutOfTime(Exception):
    """A part has used up its seconds."""


class Deadline:
    """When a part has to be done."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.end = clock, clock() + seconds

    def check(self) -> None:
        """Raises OutOfTime behind the end."""
        if self.clock() > self.end:
            raise OutOfTime


# Trainings.


def trainer(preset: str, data: hdf5.Dataset, device: str, mode: str) -> Trainer:
    """The published network and batch, in a mode of Neural Polarization."""
    chosen = presets()[preset]
    known = registry.defaults(chosen.network)
    config = dict(chosen.settings) | ({"polarization": mode} if "polarization" in known else {})
    targets = ("energy",) if data.kind == "structures" else ()
    request = Request(targets=targets, config=config, references="none", device=device)
    size = min(int(chosen.recipe["batch_size"]), data.size)
    return Trainer(task_for(chosen.network, data, request), Settings(steps=10**6, batch_size=size))


def cases() -> Iterator[tuple[str, hdf5.Dataset, str]]:
    """(preset, data, mode of Neural Polarization) of all trainings."""
    data, systems, grids = labelled(), particles(), densities()
    yield from ((name, data, "off") for name in NETWORKS)
    yield from ((name, systems, presets()[name].settings.get("polarization", "off"))
                for name in PARTICLES)  # fmt: skip
    yield from ((name, grids, "off") for name in DENSITIES)
    yield from ((name, data, "movable") for name in NETWORKS[:3])


def each(
    work: Callable[[str, hdf5.Dataset, str], dict[str, Any]],
    until: Deadline,
    only: Sequence[str] = (),
) -> Said:
    """What ``work`` says of every case; one that fails is told, and the next one has its turn."""
    for name, data, mode in cases():
        if only and name not in only:
            continue
        until.check()
        said = {"preset": name, "polarization": mode}
        try:
            yield said | work(name, data, mode)
        except (RuntimeError, MemoryError, TemporaryError) as error:
            yield said | {"error": str(error).splitlines()[0][:300]}


# Waits.


def waits(device: str, until: Deadline) -> Said:
    """Synchronisations of the second step, by the line of Python that made them."""

    def of_a_step(name: str, data: hdf5.Dataset, mode: str) -> dict[str, Any]:
        one = trainer(name, data, device, mode)
        one.step()
        return {"waits": counted(one.step, device)}

    yield from each(of_a_step, until)


def counted(work: Callable[[], object], device: str) -> dict[str, int]:
    """Where the host waits for a GPU; a CPU's own has nobody to wait for."""
    if not device.startswith("cuda"):
        work()
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines = (
        f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)
    )
    return dict(Counter(lines))


# Rates.


def rates(device: str, until: Deadline) -> Said:
    """Structures a second: training and inference as written, then as one CUDA graph."""

    def eager(name: str, data: hdf5.Dataset, mode: str) -> dict[str, Any]:
        one = trainer(name, data, device, mode)
        size, infer = one.settings.batch_size, without_record(forward(one, data))
        return {
            "batch": size,
            "training": round(size / seconds(one.step, device, until), 1),
            "inference": round(size / seconds(infer, device, until), 1),
        }

    def replayed(name: str, data: hdf5.Dataset, mode: str) -> dict[str, Any]:
        one = trainer(name, data, device, mode)
        size, work = one.settings.batch_size, forward(one, data)
        replays = {"inference": without_record(work), "gradients": gradients(one, work)}
        return {
            f"{what}, CUDA graph": round(size / seconds(captured(replay), device, until), 1)
            for what, replay in replays.items()
        }

    def compiled(name: str, data: hdf5.Dataset, mode: str) -> dict[str, Any]:
        one = trainer(name, data, device, mode)
        work = without_record(torch.compile(forward(one, data)))
        rate = one.settings.batch_size / seconds(work, device, until)
        return {"inference, torch.compile": round(rate, 1)}

    yield from each(eager, until)
    if device.startswith("cuda"):  # a wait within cannot be captured, and is the error that is told
        yield from each(replayed, until)
        yield from each(compiled, until, (COMPILED,))


def forward(one: Trainer, data: hdf5.Dataset) -> Callable[[], Tensor]:
    """A batch of the published size through the network, on the device before it begins."""
    task: Any = one.task
    model: Any = one.model.eval()
    chosen = torch.arange(one.settings.batch_size)
    if data.kind == "nbody":
        given = (x[: len(chosen)] for x in (task.positions, task.velocities, task.charges))
        return partial(model, *given)
    graph: Graph = task.arrays.graph(chosen)[0]
    if data.kind == "structures":
        return partial(model.network, graph)
    rows, _ = task.draw(chosen.to(graph.counts.device), task.config.probes, one.generator)
    return partial(model, graph, task.grids.points(chosen.to(rows.device), rows))


def gradients(one: Trainer, work: Callable[[], Tensor]) -> Callable[[], object]:
    """The same, and derivatives by all weights."""
    return lambda: torch.autograd.grad(work().square().mean(), one.parameters, allow_unused=True)


def without_record(work: Callable[[], object]) -> Callable[[], object]:
    """The same without what derivatives would need."""

    def working() -> object:
        with torch.no_grad():
            return work()

    return working


def seconds(work: Callable[[], object], device: str, until: Deadline) -> float:
    """Of one call, the mean of up to REPEATS behind three that warm up."""
    for _ in range(3):
        work()
        until.check()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(REPEATS):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / REPEATS


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """The same work as one CUDA graph, replayed.

    Raises:
        RuntimeError: it waits for the device, or does what cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


# Densities.


def density(device: str, until: Deadline, points: int = POINTS, copies: int = 9) -> Said:
    """The bundled model's density of benzene and of a crystal of urea, and 10,000 atoms' forces."""
    from ase.build import molecule

    model: Any = registry.load("density", device)
    crystal = ase.io.read(UREA).repeat((copies, copies, max(1, copies - 1)))
    side = round(points ** (1 / 3))
    for label, atoms in (("benzene", molecule("C6H6")), ("urea", crystal)):
        yield {"structure": label, "atoms": len(atoms)} | filled(model, atoms, side, device, until)
    yield {"structure": "urea", "atoms": len(crystal)} | pulled(crystal, device, until)


def filled(model: Any, atoms: ase.Atoms, side: int, device: str, until: Deadline) -> dict[str, Any]:
    """A density on side^3 points, or on as many of them as there is time for."""
    done = 0

    def progress(points: int, every: int) -> None:
        nonlocal done
        done = points
        until.check()

    reset_peak(device)
    start = time.perf_counter()
    error = ""
    try:
        model.density_grid(atoms, around(atoms, side), memory=8 << 30, progress=progress)
        synchronise(device)
    except OutOfTime:
        error = "out of time"
    except (RuntimeError, MemoryError) as failed:
        if not out_of_memory(failed):
            raise
        error = "out of memory"
    took = time.perf_counter() - start
    said = {"points": side**3, "done": done, "seconds": round(took, 2), "peak bytes": peak(device)}
    return said | ({"error": error} if error else {})


def pulled(atoms: ase.Atoms, device: str, until: Deadline) -> dict[str, Any]:
    """Energy and forces of one large structure by a network with a cutoff, random weights."""
    until.check()
    settings = {
        "targets": ("energy",),
        "units": ("eV",),
        "species": sorted(set(atoms.numbers.tolist())),
    }
    model: Any = registry.build("equivariant-transformer", settings).to(device).eval()
    reset_peak(device)
    start = time.perf_counter()
    model.predict([atoms], forces=True)
    took = time.perf_counter() - start
    return {"forces, seconds": round(took, 2), "peak bytes": peak(device)}


PARTS: dict[str, Callable[[str, Deadline], Said]] = {
    "waits": waits,
    "rates": rates,
    "density": density,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    try:
        for said in PARTS[options.part](options.device, Deadline(options.seconds)):
            print(json.dumps(said), flush=True)
    except OutOfTime:
        print(json.dumps({"end": "out of time"}), flush=True)


if __name__ == "__main__":
    main()
