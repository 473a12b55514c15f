"""kill -9 during `neupol fit` at random moments; resumed, it must equal an unbroken run.

    python benchmarks/kill_resume.py [DATA.h5] [--kills 20] [--seed 0] [--model egnn]

After every kill all files of the run must be readable, no step that had been saved may be lost, and
what was done since (seen in metrics.jsonl) must be at most one interval. At the end all tensors
of the last weights, the best weights and the training state must equal those of the unbroken run.
Without DATA, 80 frames of ethanol from the test suite are used. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from neupol_cli import checkpoint
from neupol_cli.training.runlog import Metrics

ROOT = Path(__file__).parents[1]
INTERVAL = 25  # steps between two saved states
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def neupol(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "neupol_cli", *map(str, words)]


def dataset(folder: Path) -> Path:
    """A small real dataset: ethanol, energies and forces."""
    path = folder / "ethanol.h5"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    make = neupol("data", "md17", source, "-o", path, "--partition", "56,12,12")
    subprocess.run(make, check=True, env=ENVIRONMENT)
    return path


def finished(words: list[str]) -> float:
    """Runs to the end; seconds."""
    begun = time.monotonic()
    subprocess.run(words, check=True, env=ENVIRONMENT, capture_output=True)
    return time.monotonic() - begun


def killed(words: list[str], seconds: float, at_work: bool) -> bool:
    """Starts, waits (``at_work``: from the first step on), kills -9; False if it had ended."""
    process = subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = "begin"
    while at_work and line and "steps an epoch" not in line:
        line = process.stderr.readline()
    time.sleep(seconds)
    process.kill()
    _, message = process.communicate()
    if process.returncode > 0:
        raise SystemExit(f"a resumed run ended with exit code {process.returncode}: {message}")
    return process.returncode < 0


def inspected(run: Path) -> tuple[int, int]:
    """Reads every file of a run: the step of its state, and the last step that it had reported."""
    if (run / "config.json").exists():
        json.loads((run / "config.json").read_text())
    for name in ("best", "last"):
        if (run / f"{name}.safetensors").exists():
            checkpoint.load_file(run / f"{name}.safetensors")
    lines = Metrics(run / "metrics.jsonl").lines()
    reported = max((line["step"] for line in lines), default=0)
    if not (run / "state.safetensors").exists():
        return 0, reported
    return checkpoint.load_state(run / "state.safetensors")["counters"]["step"], reported


def same(a: Path, b: Path) -> bool:
    """Whether two files of weights or states hold the same tensors, bit for bit."""
    from safetensors.torch import load_file

    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="egnn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sys.exit(compared(Path(name), options))


def compared(folder: Path, options: argparse.Namespace) -> int:
    """The whole comparison; the exit code."""
    data = options.data or dataset(folder)
    fit = ["fit", options.model, data, "--target", "energy,forces", "--steps", options.steps]
    fit += ["--batch-size", 4, "--ema", 0.99, "--clip", 10, "--valid-every", 110]
    fit += ["--set", "hidden=8", "--set", "layers=2", "--save-every", INTERVAL]
    whole, run = folder / "whole", folder / "run"
    words = [str(word) for word in fit]
    start = finished(neupol(*words[:6], "1", *words[7:], "-o", folder / "start"))
    total = finished(neupol(*words, "-o", whole))
    print(f"unbroken run: {options.steps} steps in {total:.1f} s, start-up {start:.1f} s of it")
    rng = random.Random(options.seed)
    kills = step = 0
    while kills < options.kills:
        again = ["fit", "--resume"] if (run / "config.json").exists() else words
        at_work = kills % 4 != 3  # every fourth kill falls into the start
        window = 1.6 * (total - start) / options.kills if at_work else start
        if not killed(neupol(*again, "-o", run), rng.uniform(0.0, window), at_work):
            break
        kills += 1
        weights, reported = inspected(run)
        lost = reported - weights
        print(f"kill {kills:2d}: saved step {weights:5d}, last reported {reported:5d}")
        if weights < step or lost > INTERVAL:
            print("FAILED: more than an interval was lost")
            return 1
        step = weights
    finished(neupol("fit", "--resume", "-o", run))
    files = ("last.safetensors", "best.safetensors", "state.safetensors")
    equal = {file: same(whole / file, run / file) for file in files}
    for file, answer in equal.items():
        print(f"{file}: {'equal' if answer else 'DIFFERENT'} to the unbroken run's, bit for bit")
    print(f"{kills} kills; every file was readable after each, at most {INTERVAL} steps were lost")
    return 0 if all(equal.values()) and kills == options.kills else 1


if __name__ == "__main__":
    main()
