"""What more cores bring, row by row: training, inference and densities at published sizes.

    python benchmarks/cores.py [--cores 2] [--rounds 3] [PRESET ...]

Seconds of the clock, so nothing else may be at work on the machine. One core and all of them take
turns; a ratio is of one round, and told are its median and range. Weights after the same steps, and
what is answered, must be equal to the bit. Networks are the presets', with their batches; inference
is of as many of them as take one core some SECONDS, densities are grids of SIDE^3 points around
benzene.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from ase.build import molecule
from density_speed import around
from gpu_parts import DENSITIES, NETWORKS, PARTICLES, cases, forward, trainer, without_record
from harness import in_turns
from torch import Tensor

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.models import workers
from neupol_cli.training.loop import Trainer

SECONDS, SIDE = 3.0, 100
STEPS = 3  # in a turn
MEMORY = 2 << 30  # bytes of a density's tiles
Sides = dict[str, Callable[[], Any]]


def on(cores: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """The same on so many cores."""

    def working() -> Any:
        workers.use(cores)
        return work()

    return working


def training(name: str, data: hdf5.Dataset, mode: str, cores: int, stack: ExitStack) -> Sides:
    """Steps of one training each, from the same weights."""
    sides: Sides = {}
    for count in (1, cores):
        workers.use(count)
        torch.manual_seed(0)
        one = trainer(name, data, "cpu", mode)
        stack.enter_context(one.apart())
        sides[str(count)] = on(count, lambda one=one: stepped(one))
    return sides


def stepped(one: Trainer) -> list[Tensor]:
    """The weights behind the steps of a turn."""
    for _ in range(STEPS):
        one.step()
    return [parameter.detach().clone() for parameter in one.parameters]


def inference(name: str, data: hdf5.Dataset, mode: str, cores: int, stack: ExitStack) -> Sides:
    """The same batches through the network."""
    work = without_record(forward(trainer(name, data, "cpu", mode), data))
    work()
    start = time.perf_counter()
    work()
    batches = range(max(4, round(SECONDS / (time.perf_counter() - start))))
    return {
        str(count): on(count, lambda: list(workers.in_order(lambda _: work(), batches, apart=True)))
        for count in (1, cores)
    }


def grid(name: str, data: hdf5.Dataset, mode: str, cores: int, stack: ExitStack) -> Sides:
    """A density on a grid."""
    atoms = molecule("C6H6")
    model: Any = trainer(name, data, "cpu", mode).model.eval()
    points = around(atoms, SIDE)
    work = without_record(lambda: model.density_grid(atoms, points, memory=MEMORY))
    return {str(count): on(count, work) for count in (1, cores)}


def equal(one: Any, other: Any) -> bool:
    """Whether two answers are, to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(map(equal, one, other))


def row(what: str, name: str, mode: str, sides: Sides, rounds: int) -> str:
    turns = in_turns(sides, rounds, clock=time.perf_counter)
    one, many = sides
    if not equal(turns.results[one], turns.results[many]):
        raise SystemExit(f"{name}, {what}: {one} and {many} cores differ")
    seconds = " | ".join(f"{1e3 * turns.median(side):.0f}" for side in sides)
    points = f"{name}, {mode}" if mode == "movable" else name
    return f"| {points} | {what} | {seconds} | {turns.ratio_line(one, many)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*NETWORKS, *PARTICLES, *DENSITIES]
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=", ".join(every))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_large_blocks()
    print(f"| | | 1 core, ms | {options.cores} cores, ms | times |\n|---|---|---|---|---|")
    for name, data, mode in cases():
        if options.presets and name not in options.presets:
            continue
        parts = {"training": training, "inference": grid if name in DENSITIES else inference}
        for what, made in parts.items():
            with ExitStack() as stack:
                sides = made(name, data, mode, options.cores, stack)
                print(row(what, name, mode, sides, options.rounds), flush=True)


if __name__ == "__main__":
    main()
