"""All cores against one: wall and processor seconds of whole commands, beside others and alone.

    python benchmarks/threads.py QM9.h5 [--molecules 5000] [--steps 200] [--rounds 3] [--cores 64]

Three commands: a density around caffeine, properties of molecules from extended xyz, a training of
EGNN. Each is run whole, as from a shell, without OMP_NUM_THREADS. Sides take turns; a ratio is of
one round, and told are its median and range. What comes out must be the same to the bit.

    busy   as many busy loops as there are cores beside it: the default against --threads 1
    idle   --threads 2 against --threads 1
    most   --threads 1 twice at once against once: what two cores give to work that shares nothing
    count  what so many cores would do: seconds outside the pieces, of the longest piece, and of the
           Python between operations within them, which all threads share, but not copies of the
           process (an upper bound: compiled loops count as Python); and the bytes that operations
           read and write, a second and core, of which caches keep memory from seeing most
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neupol_cli import checkpoint
from neupol_cli.io import hdf5, structures

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT)}
COUNT = "NEUPOL_COUNTED"  # where a command that is counted leaves what it counted


def commands(folder: Path, data: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The command lines, and the files that they need."""
    dataset = hdf5.read(data)
    molecules = [dataset.atoms(k) for k in range(min(options.molecules, dataset.size))]
    structures.write(folder / "some.extxyz", molecules, [{}] * len(molecules))
    learnt = hdf5.from_atoms(molecules, "structures", dataset.source)
    energies = dataset.targets["U0"]
    learnt.targets["U0"] = replace(energies, values=energies.values[: len(molecules)])
    ends = [len(molecules) * share // 10 for share in (8, 9)]
    parts = np.split(np.arange(len(molecules)), ends)
    learnt.splits["threads"] = dict(zip(("train", "valid", "test"), parts, strict=True))
    hdf5.write(folder / "some.h5", learnt)
    fit = ["fit", "egnn", "some.h5", "--target", "U0", "--steps", options.steps]
    caffeine = ROOT / "examples" / "caffeine.xyz"
    lines = {
        "density": ["density", caffeine, "--spacing", options.spacing, "-o", "density.npz"],
        "predict": ["predict", "some.extxyz", "-o", "answers.csv"],
        "fit": [*fit, "--save-every", 10**6, "--force", "-o", "run"],
    }
    chosen = {name: lines[name] for name in options.commands}
    return {name: [*map(str, line), "--device", "cpu"] for name, line in chosen.items()}


def outcome(folder: Path, name: str) -> str:
    """A digest of what a command left, but for the command line that files tell."""
    if name == "fit":
        tensors = checkpoint.load_file(folder / "run" / "last.safetensors")[1]
        content = b"".join(tensors[key].numpy().tobytes() for key in sorted(tensors))
    elif name == "density":
        content = np.load(folder / "density.npz")["density"].tobytes()
    else:
        rows = csv.DictReader((folder / "answers.csv").read_text().splitlines())
        content = repr([{**row, "provenance": ""} for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()


def timed(folder: Path, line: Sequence[str], **more: str) -> tuple[float, float]:
    """Wall and processor seconds of a whole command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "neupol_cli", *line],
        env=ENVIRONMENT | more, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(line)}: exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that use a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def told(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def compared(
    folder: Path, lines: dict[str, list[str]], sides: dict[str, list[str]], rounds: int
) -> None:
    """Prints, of each command, the first side over the second."""
    first, second = sides
    for name, line in lines.items():
        wall: dict[str, list[float]] = {side: [] for side in sides}
        processor: dict[str, list[float]] = {side: [] for side in sides}
        digests = set()
        for turn in range(rounds + 1):  # the first warms caches up, and builds kernels
            for side, words in sides.items():
                seconds, used = timed(folder, [*line, *words])
                digests.add(outcome(folder, name))
                if turn:
                    wall[side].append(seconds)
                    processor[side].append(used)
        if len(digests) > 1:
            raise SystemExit(f"{name}: {first} and {second} answer differently")
        medians = "; ".join(
            f"{side} {statistics.median(wall[side]):.2f} s wall, "
            f"{statistics.median(processor[side]):.2f} s processor"
            for side in sides
        )
        ratios = [
            told([a / b for a, b in zip(of[first], of[second], strict=True)])
            for of in (wall, processor)
        ]
        print(f"  {name}: {medians}: wall {ratios[0]}, processor {ratios[1]}", flush=True)


def at_most(folder: Path, lines: dict[str, list[str]], rounds: int) -> None:
    """Prints, of each command, how much sooner two cores do it twice than one core would."""
    again = folder / "again"
    shutil.copytree(folder, again)
    for name, line in lines.items():
        once = partial(timed, line=[*line, "--threads", "1"])
        ratios = []
        for turn in range(rounds + 1):
            alone, _ = once(folder)
            start = time.perf_counter()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(once, (folder, again)))
            if turn:
                ratios.append(2 * alone / (time.perf_counter() - start))
        print(f"  {name}: two cores do it twice {told(ratios)} times as soon as one", flush=True)


class Pieces:
    """Stands in for `workers.in_order`: one piece after the other, with what they cost."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.between, self.bytes = 0.0, 0.0  # of a piece: the Python in it, and what it moves
        self.within = self.apart = False

    def in_order(
        self,
        work: Callable[[Any], Any],
        pieces: Iterable[Any],
        at_once: int | None = None,
        apart: bool = False,
    ) -> Iterator[Any]:
        if self.within:
            return map(work, pieces)
        self.apart |= apart
        return (self.done(work, piece) for piece in pieces)

    @contextmanager
    def kept_apart(self, work: Callable[[Any], Any], at_once: int) -> Iterator[Callable[..., Any]]:
        yield partial(self.in_order, work, apart=True)

    def done(self, work: Callable[[Any], Any], piece: Any) -> Any:
        self.within, start = True, time.perf_counter()
        try:
            result = work(piece)
            self.seconds.append(time.perf_counter() - start)
            if len(self.seconds) in (4, 5):  # once more, to look at it; such time is not counted
                self.look(lambda: work(piece))
            return result
        finally:
            self.within = False

    def look(self, call: Callable[[], Any]) -> None:
        """Bytes of one piece, and the Python of the next."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        seconds = self.seconds[-1]
        if len(self.seconds) == 4:
            moved = [0.0]

            class Bytes(TorchDispatchMode):
                def __torch_dispatch__(
                    self, func: Any, types: Any, args: Any = (), kwargs: Any = None
                ) -> Any:
                    out = func(*args, **(kwargs or {}))
                    if "view" not in func.__name__:
                        leaves = tree_leaves((args, kwargs, out))
                        moved[0] += sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))
                    return out

            with Bytes():
                call()
            self.bytes = moved[0] / seconds
        else:
            self.between = min(self.python(call) for _ in range(3))  # others only add to it

    @staticmethod
    def python(call: Callable[[], Any]) -> float:
        """The share of a call that is between its outermost operations."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as record:
            call()
        events = [e for e in record.events() or [] if e.cpu_parent is None]
        ranges = [e.time_range for e in events]
        span = max(r.end for r in ranges) - min(r.start for r in ranges)
        return max(0.0, 1 - sum(e.cpu_time_total for e in events) / span)


def count_here(arguments: list[str]) -> None:
    """A command with its pieces counted; in a process of its own."""
    from neupol_cli.models import workers

    begun, pieces = time.perf_counter(), Pieces()
    workers.in_order = pieces.in_order  # type: ignore[assignment]
    workers.kept_apart = pieces.kept_apart  # type: ignore[assignment]
    from neupol_cli import app

    code = app.run(arguments)
    record = {"wall": time.perf_counter() - begun, "seconds": pieces.seconds, "code": code}
    record |= {"between": pieces.between, "bytes": pieces.bytes, "apart": pieces.apart}
    Path(os.environ[COUNT]).write_text(json.dumps(record))
    os._exit(code)


def counted(folder: Path, name: str, line: list[str], cores: int) -> None:
    """Prints what so many cores would do with a command."""
    place = folder / "counted.json"
    command = [sys.executable, __file__, "--count-here", *line, "--threads", "1"]
    subprocess.run(
        command, env=ENVIRONMENT | {COUNT: str(place)}, cwd=folder, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    record = json.loads(place.read_text())
    inside, longest = sum(record["seconds"]), max(record["seconds"], default=0.0)
    serial = record["wall"] - inside
    shared = 0.0 if record["apart"] else inside * record["between"]
    then = serial + max(inside / cores, shared, longest)
    print(
        f"  {name}: {serial:.2f} s outside {len(record['seconds'])} pieces of {inside:.2f} s, the "
        f"longest {longest:.3f} s; Python between operations at most {record['between']:.1%}; "
        f"{record['bytes'] / 1e9:.1f} GB/s an operation's ends; with {cores} cores {then:.2f} s, "
        f"{record['wall'] / then:.1f} times one",
        flush=True,
    )


def main() -> None:
    """Prints the three parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="a dataset by `neupol data qm9`")
    parser.add_argument("--molecules", type=int, default=5000)
    parser.add_argument("--spacing", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=["busy", "idle", "most", "count"])
    parser.add_argument("--commands", nargs="*", default=["density", "predict", "fit"])
    options = parser.parse_args()
    own = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = commands(folder, options.data.absolute(), options)
        if "busy" in options.only:
            print(f"{own} busy loops beside it, {own} cores:", flush=True)
            with busy_loops(own):
                sides = {"default": [], "--threads 1": ["--threads", "1"]}
                compared(folder, lines, sides, options.rounds)
        if "idle" in options.only:
            print("nothing beside it:", flush=True)
            sides = {"--threads 1": ["--threads", "1"], "--threads 2": ["--threads", "2"]}
            compared(folder, lines, sides, options.rounds)
        if "most" in options.only:
            print("nothing beside it, twice at once:", flush=True)
            at_most(folder, lines, options.rounds)
        if "count" in options.only:
            print("counted:", flush=True)
            for command, line in lines.items():
                counted(folder, command, line, options.cores)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count-here"]:
        count_here(sys.argv[2:])
    main()
