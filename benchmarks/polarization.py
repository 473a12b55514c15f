"""Neural Polarization on QM9: off, frozen and movable points at an equal number of steps.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/polarization.py qm9.h5 --steps 1500 --out runs/polarization

Runs `neupol fit` once a mode, all else equal, and prints the test errors side by side. Four targets
share a trunk, so one run answers for all of them. Existing runs are resumed, finished ones read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MODES = ("off", "frozen", "movable")
TARGETS = ("mu", "homo", "zpve", "U0")
# Table 1 (EGNN without and with movable points) and Table 3 (Equiformer: off, frozen, movable).
PAPER = {
    "mu": "EGNN 0.029 -> 0.030; Equiformer 0.0118, 0.0159, 0.0109",
    "homo": "EGNN 29 -> 29.9; Equiformer 16.5, 17.7, 16.7 (meV)",
    "zpve": "EGNN 1.55 -> 1.50 (meV)",
    "U0": "EGNN 11 -> 9.52; Equiformer 6.59, 8.80, 5.54 (meV)",
}


def fit(mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of one training, as `neupol fit --json` prints it."""
    run = arguments.out / mode
    command = [
        *(sys.executable, "-m", "neupol_cli", "fit", "egnn", arguments.data, "-o", run, "--force"),
        *("--target", ",".join(TARGETS), "--polarization", mode, "--steps", arguments.steps),
        *("--batch-size", arguments.batch_size, "--lr", 0.001, "--warmup", 200, "--clip", 2),
        *("--ema", 0.995, "--set", f"hidden={arguments.hidden}", "--set", "layers=4"),
        *("--valid-every", arguments.steps, "--seed", arguments.seed, "--json"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    (run / "result.json").write_text(json.dumps(result, indent=1))
    return result


def report(out: Path) -> None:
    """The table of what has been trained so far."""
    results = {m: json.loads((out / m / "result.json").read_text()) for m in MODES}
    print("| target | unit | off | frozen | movable | movable / off | published |")
    print("|---|---|---|---|---|---|---|")
    for name in TARGETS:
        errors = [results[mode]["test"][name] for mode in MODES]
        values = [error["value"] for error in errors]
        cells = " | ".join(f"{value:.4g}" for value in values)
        ratio = values[2] / values[0]
        print(f"| {name} | {errors[0]['unit']} | {cells} | {ratio:.3f} | {PAPER[name]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/polarization"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", action="append", choices=MODES, help="only these; repeatable")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    for mode in [] if arguments.report else arguments.mode or MODES:
        (arguments.out / mode).parent.mkdir(parents=True, exist_ok=True)
        fit(mode, arguments)
    if all((arguments.out / mode / "result.json").exists() for mode in MODES):
        report(arguments.out)


if __name__ == "__main__":
    main()
