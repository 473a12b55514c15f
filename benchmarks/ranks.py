"""Several processes against one: steps of `neupol fit` and probes of `neupol density` a second.

    python benchmarks/ranks.py QM9.h5 [--world 2] [--rounds 3]

Every process has one thread. The sides take turns; the best of the rounds counts, for a machine is
only ever slowed down by others. Printed are both rates, their ratio, and how far the weights (after
100 steps) and the densities are apart, both in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neupol_cli import checkpoint
from neupol_cli.io import volumetric

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
STEPS = 50, 100  # two of those at which a run notes the time
Made = tuple[float, dict[str, np.ndarray]]  # a rate, and what came out


def neupol(world: int, *words: Any) -> str:
    """What the command prints, done by so many processes."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)] if world > 1 else []
    command = [sys.executable, *launch, "-m", "neupol_cli", *map(str, words)]
    return subprocess.run(
        command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def fitted(world: int, data: Path, run: Path) -> Made:
    """Steps a second of EGNN, 128 x 7, on batches of 96 molecules."""
    words = ["egnn", data, "--target", "U0", "--limit", 20_000, "--steps", STEPS[1]]
    words += ["--batch-size", 96, "--save-every", 10**6]
    neupol(world, "fit", *words, "--device", "cpu", "--json", "-o", run, "--force")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {line["step"]: line["seconds"] for line in lines if "loss" in line}
    tensors = checkpoint.load_file(run / "last.safetensors")[1]
    rate = (STEPS[1] - STEPS[0]) / (times[STEPS[1]] - times[STEPS[0]])
    return rate, {name: value.numpy() for name, value in tensors.items()}


def density(world: int, data: Path, run: Path) -> Made:
    """Probes a second of the bundled network around aspirin."""
    aspirin, out = ROOT / "examples" / "aspirin.xyz", run.with_suffix(".h5")
    report = neupol(
        world, "density", aspirin, "--spacing", 0.1, "-o", out, "--json", "--device", "cpu"
    )
    return json.loads(report)["probes_per_second"], {"density": volumetric.read(out).values}


WORK: dict[str, Callable[[int, Path, Path], Made]] = {"steps/s": fitted, "probes/s": density}


def main() -> None:
    """Prints a line for training and one for a density."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="a dataset by `neupol data qm9`")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for unit, work in WORK.items():
            best, made = {1: 0.0, options.world: 0.0}, {}
            for world in [1, options.world] * options.rounds:
                rate, made[world] = work(world, options.data.absolute(), Path(folder) / str(world))
                best[world] = max(best[world], rate)
            one, several = made[1], made[options.world]
            apart = max(float(np.abs(one[k] - several[k]).max()) for k in one if one[k].size)
            ratio = best[options.world] / best[1]
            print(
                f"{best[1]:,.1f} {unit} alone, {best[options.world]:,.1f} by {options.world}: "
                f"{ratio:.2f}; {apart:.2g} apart",
                flush=True,
            )


if __name__ == "__main__":
    main()
