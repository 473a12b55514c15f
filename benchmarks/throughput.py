"""What is in a prediction of many molecules besides the network: reading, doubts, writing.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/throughput.py qm9.h5 --count 2000

Molecules of QM9 from one extended xyz file through the parts of `neupol predict`, one thread, each
part by itself: processor seconds, molecules a second, and the share of the network's. The last line
compares reading, doubts and the slowest way of writing with the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ase.io
import numpy as np
import torch

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5, structures
from neupol_cli.prediction import answers
from neupol_cli.prediction.committee import ATOMS, CHUNK_OF_THREAD, Committee, chunks

Result = TypeVar("Result")


class Clock:
    """Processor seconds by part; prints each as it is known."""

    def __init__(self, count: int) -> None:
        self.count, self.seconds = count, dict[str, float]()
        print("| part | processor s | molecules/s |\n|---|---|---|")

    def of(self, part: str, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, timed."""
        start = time.process_time()
        result = work()
        self.seconds[part] = took = time.process_time() - start
        print(f"| {part} | {took:.2f} | {self.count / took:,.0f} |", flush=True)
        return result


def frames_of(path: Path, count: int, seed: int) -> list[ase.Atoms]:
    """Some molecules of a dataset."""
    dataset = hdf5.read(path)
    rows = np.random.default_rng(seed).permutation(dataset.size)[:count]
    return [dataset.atoms(int(row)) for row in np.sort(rows)]


def measured(source: Path, model: str, folder: Path, count: int) -> dict[str, float]:
    """Processor seconds of each part."""
    committee, clock = Committee([registry.load_property(model)], [model]), Clock(count)
    named = clock.of("reading", lambda: list(structures.read([str(source)])))
    some = list(chunks(named, CHUNK_OF_THREAD, ATOMS))
    committee.predict(some[0], False, False)  # warms up

    def network() -> list[answers.Prediction]:
        return [one for chunk in some for one in committee.predict(chunk, False, False)]

    predicted = clock.of("network", network)
    doubted = clock.of("doubts", lambda: list(map(committee.doubted, predicted)))
    for suffix, write in {**answers.FILES, ".json": answers.json_file}.items():
        clock.of(f"writing {suffix}", lambda: write(folder / f"out{suffix}", iter(doubted)))  # noqa: B023
    clock.of("writing a table", lambda: unseen_table(doubted))
    return clock.seconds


def unseen_table(predictions: list[answers.Prediction]) -> None:
    """What goes to a terminal or a pipe, to neither."""
    with contextlib.redirect_stdout(io.StringIO()):
        answers.table(iter(predictions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-m", "--model", default="qm9")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "molecules.extxyz"
        ase.io.write(source, frames_of(options.dataset, options.count, options.seed))
        seconds = measured(source, options.model, Path(name), options.count)
    slowest = max(value for part, value in seconds.items() if part.startswith("writing"))
    around = seconds["reading"] + seconds["doubts"] + slowest
    print(f"\naround the network / network: {around / seconds['network']:.2f}")


if __name__ == "__main__":
    main()
