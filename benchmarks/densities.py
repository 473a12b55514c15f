"""Densities: the networks of Table 2, and what the order L buys (Koker et al. 2023).

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    OMP_NUM_THREADS=1 python benchmarks/densities.py density.h5 --out runs/densities

Table 2: both DeepDFT networks (with their squared loss, and with ChargE3Net's absolute one),
ChargE3Net, and ChargE3Net with movable points or a learned radial
function, each for the same seconds of one processor. Their steps are timed first, in turns, on the
same data, and each network gets the number of steps that fills the time. Figure 3: ChargE3Net with
features up to L = 0 .. 4 at equal size of the representation and equal steps, from all training
molecules and from a half and an eighth of them.

    OMP_NUM_THREADS=1 python benchmarks/densities.py density.h5 --part points --seconds 120

Movable points, three seeds: ChargE3Net without, with points that move once behind the last layer
among atoms (late) and with points that move after every layer, at equal time and at equal steps,
those that the slowest makes in that time. ``--part combined``: late points, a learned radial table
with its smoothness in the loss, and a promolecule, one by one and together, likewise. Figure 3 and
these have three seeds each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import study
import torch
from harness import in_turns
from torch.utils.flop_counter import FlopCounterMode

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for

Timed = tuple[str, dict[str, Any]]  # a network and its settings
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
WIDE = {**CHARGE3NET, "mul": 240}
LATE, TABLE = {"polarization": "late"}, {"encoding": "learned", "smoothness": 0.01}
ATOMS = {"promolecule": 12}
# name -> settings
POINTS: dict[str, dict[str, Any]] = {
    "off": WIDE,
    "late": {**WIDE, **LATE},
    "movable": {**WIDE, "polarization": "movable"},
}
COMBINED: dict[str, dict[str, Any]] = {
    "promolecule": {**WIDE, **ATOMS},
    "promolecule, late": {**WIDE, **ATOMS, **LATE},
    "promolecule, learned": {**WIDE, **ATOMS, **TABLE},
    "promolecule, learned, late": {**WIDE, **ATOMS, **TABLE, **LATE},
}
PARTS = ("table", "orders", "points", "combined")
SEEDS = (0, 1, 2)
SHARES = {2: (0, 2, 4), 8: (0, 2, 4)}  # a half and an eighth of the data -> the orders


def trainers(data: Path, networks: Mapping[str, Timed]) -> dict[str, Trainer]:
    """Each network before its first step."""
    dataset, made = hdf5.read(data), {}
    for name, (network, config) in networks.items():
        settings = {key: value for key, value in config.items() if key != "smoothness"}
        task = task_for(network, dataset, Request(config=settings))
        made[name] = Trainer(task, Settings(steps=10_000, batch_size=BATCH, lr=0.001))
    return made


def step_seconds(data: Path, networks: Mapping[str, Timed]) -> dict[str, float]:
    """Processor seconds of a training step of each network, medians of rounds in turns."""
    sides = {name: trainer.step for name, trainer in trainers(data, networks).items()}
    turns = in_turns(sides, 3, 6)
    return {name: turns.median(name) for name in sides}


def report_products(data: Path) -> None:
    """Of the same first batch: operations in matrix products, forwards and backwards."""
    timed = {name: ("charge3net", config) for name, config in POINTS.items()}
    print("| points | 10^9 operations in products, a step | numbers learned |\n|---|---|---|")
    for name, trainer in trainers(data, timed).items():
        with FlopCounterMode(display=False) as counter:
            trainer.step()
        learned = sum(parameter.numel() for parameter in trainer.task.model.parameters())
        print(f"| {name} | {counter.get_total_flops() / 1e9:.3f} | {learned:,} |")


def kept_seconds(path: Path, data: Path, networks: Mapping[str, Timed]) -> dict[str, float]:
    """The same, measured once: a study that is resumed has the same numbers of steps."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(step_seconds(data, networks), indent=1) + "\n")
    seconds: dict[str, float] = json.loads(path.read_text())
    return seconds


def arguments(name: str, config: dict[str, Any], data: Path, lr: float, steps: int) -> list[Any]:
    """What `neupol fit` is given."""
    words: list[Any] = [name, data, "--steps", steps, "--batch-size", BATCH, "--lr", lr]
    words += ["--schedule", "cosine", "--warmup", 50, "--valid-every", max(steps // 4, 1)]
    for key, value in config.items():
        plain = key in ("polarization", "encoding", "loss", "smoothness")
        words += [f"--{key}", value] if plain else ["--set", f"{key}={value}"]
    return words


def table_runs(data: Path, out: Path, seconds: float) -> list[study.Run]:
    """Table 2; the steps that fill the time are measured once and kept."""
    # With another loss a step takes as long.
    timed = {k: (n, c) for k, (n, c, _, _) in NETWORKS.items() if "loss" not in c}
    step_times = kept_seconds(out / "step_seconds.json", data, timed)
    runs = []
    for name, (network, config, lr, _) in NETWORKS.items():
        steps = round(seconds / step_times[name.removesuffix("-l1")])
        runs.append(study.Run(name, tuple(arguments(network, config, data, lr, steps))))
    return runs


def order_runs(data: Path, steps: int, mul: int) -> list[study.Run]:
    """Figure 3: every order with all the data, then those of `SHARES` with less."""
    size = len(next(iter(hdf5.read(data).splits.values()))["train"])
    whole, less = [], []
    for order in ORDERS:
        config = {**CHARGE3NET, "lmax": order, "mul": mul}
        whole += seeded(order_name(mul, order), config, data, steps)
        for share in (share for share, orders in SHARES.items() if order in orders):
            for run in seeded(order_name(mul, order, share), config, data, steps):
                less.append(study.Run(run.name, (*run.arguments, "--limit", size // share)))
    return study.seed_after_seed(whole) + study.seed_after_seed(less)


def order_name(mul: int, order: int, share: int = 1) -> str:
    """What a study of orders calls its trainings, but for their seeds."""
    return f"orders/{mul}/L{order}" + (f"-{share}" if share > 1 else "")


def seeded(name: str, config: dict[str, Any], data: Path, steps: int) -> list[study.Run]:
    """ChargE3Net with some settings and every seed; validated once, in the end."""
    words = arguments("charge3net", config, data, 0.01, steps)
    words[words.index("--valid-every") + 1] = steps
    return [study.Run(f"{name}/{seed}", (*words, "--threads", 1, "--seed", seed)) for seed in SEEDS]


def compared(
    part: str, networks: Mapping[str, dict[str, Any]], data: Path, out: Path, seconds: float
) -> list[study.Run]:
    """ChargE3Net with several settings: every seed at equal time, then at the slowest's steps."""
    timed = {name: ("charge3net", config) for name, config in networks.items()}
    step_times = kept_seconds(out / part / "step_seconds.json", data, timed)
    steps = {name: round(seconds / step_times[name]) for name in networks}
    fewest = min(steps.values())
    at_time, at_steps = [], []
    for name, config in networks.items():
        at_time += seeded(f"{part}/time/{name}", config, data, steps[name])
        if steps[name] > fewest:  # or else both are one
            at_steps += seeded(f"{part}/steps/{name}", config, data, fewest)
    return study.seed_after_seed(at_time) + study.seed_after_seed(at_steps)


def errors_of(results: study.Results, name: str) -> list[float]:
    """eps_mae in percent, seed by seed."""
    found = [results[f"{name}/{seed}"] for seed in SEEDS if f"{name}/{seed}" in results]
    return [float(result["test"]["eps_mae_percent"]["value"]) for result in found]


def seeds_row(results: study.Results, name: str) -> str:
    """Steps, seed by seed and mean with standard error of a training's eps_mae."""
    errors = errors_of(results, name)
    steps = f"{results[f'{name}/{SEEDS[0]}']['steps']:,}" if errors else "-"
    return f"{steps} | {', '.join(f'{e:.3f}' for e in errors)} | {study.with_error(errors, '.3f')}"


def report_table(results: study.Results) -> None:
    """Table 2."""
    print("| network | steps | eps_mae % | published, all of QM9 |\n|---|---|---|---|")
    for name, (_, _, _, published) in NETWORKS.items():
        result = results.get(name)
        steps = "-" if result is None else f"{result['steps']:,}"
        error = "-" if result is None else f"{result['test']['eps_mae_percent']['value']:.3f}"
        print(f"| {name} | {steps} | {error} | {published} |")


def report_orders(results: study.Results, mul: int) -> None:
    """Figure 3, means and standard errors."""
    print(f"| L, mul {mul} | seeds | all | half | eighth |\n|---|---|---|---|---|")
    for order in ORDERS:
        names = [order_name(mul, order, share) for share in (1, 2, 8)]
        cells = [study.with_error(errors_of(results, name), ".3f") for name in names]
        print(f"| {order} | {len(errors_of(results, names[0]))} | {' | '.join(cells)} |")


def report_compared(results: study.Results, part: str, names: Mapping[str, Any]) -> None:
    """Settings at equal time and at equal steps."""
    print("| | steps | seeds | eps_mae % | against the first |\n|---|---|---|---|---|")
    for budget in ("time", "steps"):
        runs = budget_names(results, part, budget, names)
        first = errors_of(results, runs[next(iter(names))])
        for name, run in runs.items():
            pairs = zip(errors_of(results, run), first, strict=False)
            ratio = study.with_error([own / its for own, its in pairs], ".3f")
            print(f"| equal {budget}: {name} | {seeds_row(results, run)} | {ratio} |")


def budget_names(
    results: study.Results, part: str, budget: str, names: Mapping[str, Any]
) -> dict[str, str]:
    """Settings -> what their trainings are called; the slowest's steps are those of its time."""
    times = {name: results.get(f"{part}/time/{name}/{SEEDS[0]}") for name in names}
    steps = {name: result["steps"] for name, result in times.items() if result}
    slowest = min(steps, key=lambda name: int(steps[name]), default=None)
    return {name: f"{part}/{'time' if name == slowest else budget}/{name}" for name in names}


def main() -> None:
    parser = study.options(__doc__ or "", "runs/densities")
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--products", action="store_true", help="count those of movable points")
    parser.add_argument("--seconds", type=float, default=300, help="a network, at equal time")
    parser.add_argument("--steps", type=int, default=1500, help="of Figure 3, a network")
    parser.add_argument("--mul", type=int, default=80, help="of Figure 3")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    if options.products:
        report_products(options.data)
        return
    given = options.data, options.out, options.seconds
    parts: dict[str, tuple[Callable[[], list[study.Run]], Callable[[study.Results], None]]] = {
        "table": (lambda: table_runs(*given), report_table),
        "orders": (
            lambda: order_runs(options.data, options.steps, options.mul),
            lambda results: report_orders(results, options.mul),
        ),
        "points": (
            lambda: compared("points", POINTS, *given),
            lambda results: report_compared(results, "points", POINTS),
        ),
        "combined": (
            lambda: compared("combined", COMBINED, *given),
            lambda results: report_compared(results, "combined", COMBINED),
        ),
    }
    chosen = [parts[options.part]] if options.part else list(parts.values())

    def told(results: study.Results) -> None:
        for _, report in chosen:
            report(results)
            print()

    study.conduct([run for runs, _ in chosen for run in runs()], options, told)


if __name__ == "__main__":
    main()
