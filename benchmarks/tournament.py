"""Which network learns QM9's twelve targets fastest: all of them for the same processor time.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/tournament.py qm9.h5 --out runs/tournament

One thread each, all with the same batches, averaged weights and a rate that ends at zero. The
table: steps, errors of the validation molecules, and how many times EGNN's published errors they
are, as a mean over the twelve targets (geometric, so that none of them decides); each with the mean
of the seeds and its standard error.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import study

# EGNN's published errors (Satorras et al. 2021, table 3), in the units of neupol.
PUBLISHED = {
    "mu": 0.029, "alpha": 0.071, "homo": 0.029, "lumo": 0.025, "gap": 0.048, "r2": 0.106,
    "zpve": 0.00155, "U0": 0.011, "U": 0.012, "H": 0.012, "G": 0.012, "Cv": 0.031,
}  # fmt: skip
GAUSSIAN = ("--set", "layers=5", "--set", "encoding=gaussian", "--set", "encoding_size=48")
MUON = ("--optimizer", "muon", "--lr", 0.007)
CONTESTANTS: dict[str, tuple[Any, ...]] = {
    "EGNN, 5 layers of 128, 5 Angstrom": ("egnn", *GAUSSIAN, "--set", "cutoff=5"),
    "equivariant transformer, 4 layers of 128": (
        *("equivariant-transformer", "--lr", 5e-4, "--set", "hidden=128", "--set", "layers=4"),
    ),
    "DimeNet++, 3 blocks of 64": ("dimenet", "--set", "hidden=64", "--set", "layers=3"),
    "PaiNN, 3 layers of 128": ("painn", "--lr", 0.004),
    "PaiNN, 3 layers of 128, Muon": ("painn", *MUON),
    "PaiNN, 3 layers of 128, Muon, movable points": ("painn", *MUON, "--polarization", "movable"),
}
ENERGIES = ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G")
SHOWN = ("mu", "alpha", "homo", "gap", "r2", "zpve", "U0", "Cv")


def runs(data: Path, minutes: float, seeds: int) -> list[study.Run]:
    """A training a contestant and seed; named after both."""
    common = (
        *(data, "--minutes", minutes, "--batch-size", 64, "--warmup", 100, "--clip", 2),
        *("--ema", 0.99, "--valid-every", 10**6, "--threads", 1, "--device", "cpu"),
    )
    return [
        study.Run(f"{name}/{seed}", (network, *common, *words, "--seed", seed))
        for name, (network, *words) in CONTESTANTS.items()
        for seed in range(seeds)
    ]


def row(results: list[dict[str, Any]]) -> list[str]:
    """Of a contestant's seeds: steps, errors of the targets that are shown, times EGNN's."""
    errors = {key: [float(r["valid"][key]["value"]) for r in results] for key in PUBLISHED}
    factor = {key: 1000 if key in ENERGIES else 1 for key in PUBLISHED}  # eV -> meV
    shown = [study.with_error([factor[key] * x for x in errors[key]], ".3g") for key in SHOWN]
    logs = [
        statistics.mean(math.log(errors[key][k] / PUBLISHED[key]) for key in PUBLISHED)
        for k in range(len(results))
    ]
    times = study.with_error([math.exp(log) for log in logs], ".3g")
    return [", ".join(str(r["steps"]) for r in results), *shown, times]


def report(results: study.Results) -> None:
    """The table of what has been trained so far; energies in meV."""
    print("| network | steps | " + " | ".join(SHOWN) + " | times EGNN's |")
    print("|---" * (len(SHOWN) + 3) + "|")
    for name in CONTESTANTS:
        if found := [r for key, r in results.items() if key.rpartition("/")[0] == name]:
            print(f"| {name} | {' | '.join(row(found))} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/tournament")
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study.conduct(runs(options.data, options.minutes, options.seeds), options, report)


if __name__ == "__main__":
    main()
