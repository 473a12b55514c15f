"""Densities: the networks of Table 2, and what the order L buys (Koker et al. 2023).

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    OMP_NUM_THREADS=1 python benchmarks/densities.py density.h5 --out runs/densities

Table 2: both DeepDFT networks (with their squared loss, and with ChargE3Net's absolute one),
ChargE3Net, and ChargE3Net with movable points or a learned radial
function, each for the same seconds of one processor. Their steps are timed first, in turns, on the
same data, and each network gets the number of steps that fills the time. Figure 3: ChargE3Net with
features up to L = 0 .. 4 at equal size of the representation and equal steps, from all training
molecules and from a half and an eighth of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import study
import torch
from harness import in_turns

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for

BATCH = 8
CHARGE3NET = {"mul": 80, "lmax": 2, "embedding": 32, "probes": 300, "sampling_exponent": 0.5}
SMALL = {"hidden": 64, "layers": 3, "probes": 300, "sampling_exponent": 0.5}
# name -> (network, settings, learning rate, eps_mae % of Table 2 on all of QM9)
NETWORKS: dict[str, tuple[str, dict[str, Any], float, str]] = {
    "deepdft-schnet": ("deepdft-schnet", SMALL, 0.001, "0.357"),
    "deepdft-painn": ("deepdft-painn", SMALL, 0.001, "0.284"),
    "deepdft-schnet-l1": ("deepdft-schnet", {**SMALL, "loss": "l1"}, 0.001, "-"),
    "deepdft-painn-l1": ("deepdft-painn", {**SMALL, "loss": "l1"}, 0.001, "-"),
    "charge3net": ("charge3net", CHARGE3NET, 0.01, "0.196"),
    "movable": ("charge3net", {**CHARGE3NET, "polarization": "movable"}, 0.01, "-"),
    "learned": ("charge3net", {**CHARGE3NET, "encoding": "learned"}, 0.01, "-"),
}
ORDERS = (0, 1, 2, 3, 4)
SHARES = {2: (0, 2, 4), 8: (0, 2, 4)}  # a half and an eighth of the data -> the orders


def step_seconds(data: Path, rounds: int = 3, steps: int = 6) -> dict[str, float]:
    """Processor seconds of a training step of each network, medians of rounds in turns."""
    dataset = hdf5.read(data)
    trainers = {}
    for name, (network, config, lr, _) in NETWORKS.items():
        if "loss" in config:
            continue  # takes as long as the other one
        task = task_for(network, dataset, Request(config=config))
        trainers[name] = Trainer(task, Settings(steps=10_000, batch_size=BATCH, lr=lr))
    turns = in_turns({name: trainer.step for name, trainer in trainers.items()}, rounds, steps)
    return {name: turns.median(name) for name in trainers}


def arguments(name: str, config: dict[str, Any], data: Path, lr: float, steps: int) -> list[Any]:
    """What `neupol fit` is given."""
    words: list[Any] = [name, data, "--steps", steps, "--batch-size", BATCH, "--lr", lr]
    words += ["--schedule", "cosine", "--warmup", 50, "--valid-every", max(steps // 4, 1)]
    for key, value in config.items():
        plain = key in ("polarization", "encoding", "loss")
        words += [f"--{key}", value] if plain else ["--set", f"{key}={value}"]
    return words


def table_runs(data: Path, out: Path, seconds: float) -> list[study.Run]:
    """Table 2; the steps that fill the time are measured once and kept."""
    path = out / "step_seconds.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(step_seconds(data), indent=1) + "\n")
    step_times = json.loads(path.read_text())
    runs = []
    for name, (network, config, lr, _) in NETWORKS.items():
        steps = round(seconds / step_times[name.removesuffix("-l1")])
        runs.append(study.Run(name, tuple(arguments(network, config, data, lr, steps))))
    return runs


def order_runs(data: Path, steps: int) -> list[study.Run]:
    """Figure 3."""
    size = len(next(iter(hdf5.read(data).splits.values()))["train"])
    runs = []
    for order in ORDERS:
        config = {**CHARGE3NET, "lmax": order}
        every = arguments("charge3net", config, data, 0.01, steps)
        runs.append(study.Run(f"L{order}", tuple(every)))
        for share in [share for share, orders in SHARES.items() if order in orders]:
            fewer = (*every, "--limit", size // share)
            runs.append(study.Run(f"L{order}-{share}", fewer))
    return runs


def error(results: study.Results, name: str) -> str:
    result = results.get(name)
    return "-" if result is None else f"{result['test']['eps_mae_percent']['value']:.3f}"


def report(results: study.Results) -> None:
    """Both tables of what has been trained so far; eps_mae in percent."""
    print("| network | steps | eps_mae % | published, all of QM9 |\n|---|---|---|---|")
    for name, (_, _, _, published) in NETWORKS.items():
        steps = f"{results[name]['steps']:,}" if name in results else "-"
        print(f"| {name} | {steps} | {error(results, name)} | {published} |")
    print("\n| L | all | half | eighth |\n|---|---|---|---|")
    for order in ORDERS:
        cells = [error(results, f"L{order}{suffix}") for suffix in ("", "-2", "-8")]
        print(f"| {order} | {' | '.join(cells)} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/densities")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="of Table 2, a network")
    parser.add_argument("--steps", type=int, default=1500, help="of Figure 3, a network")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    every = table_runs(options.data, options.out, options.seconds)
    study.conduct([*every, *order_runs(options.data, options.steps)], options, report)


if __name__ == "__main__":
    main()
