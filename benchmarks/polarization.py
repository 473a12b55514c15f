"""Neural Polarization on QM9: off, frozen and movable points at an equal number of steps.

    neupol data qm9 --limit 6000 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/polarization.py qm9.h5 --out runs/polarization

Kwak and Jo, Tables 1 and 3, in small: EGNN and the equivariant transformer, all else equal, several
seeds. Twelve targets share a trunk, so that one run answers for all of them. Equiformer, whose
steps take ten times as long, is in `softening.py`, with the targets of Table 3.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import study

# What the paper prints, in its order: target -> of each network, without and with movable points.
# Energies in meV, as ours are shown.
PAPER = {
    "mu": {"egnn": (0.029, 0.030), "equivariant-transformer": (0.011, 0.014)},
    "alpha": {"egnn": (0.071, 0.071), "equivariant-transformer": (0.059, 0.0447)},
    "homo": {"egnn": (29.0, 29.9), "equivariant-transformer": (20.3, 18.4)},
    "lumo": {"egnn": (25.0, 23.4), "equivariant-transformer": (17.5, 17.8)},
    "gap": {"egnn": (48.0, 47.9), "equivariant-transformer": (36.1, 41.9)},
    "r2": {"egnn": (0.106, 0.089), "equivariant-transformer": (0.033, 0.085)},
    "zpve": {"egnn": (1.55, 1.50), "equivariant-transformer": (1.84, 1.22)},
    "U0": {"egnn": (11.0, 9.52), "equivariant-transformer": (6.15, 5.5)},
    "U": {"egnn": (12.0, 10.33), "equivariant-transformer": (6.38, 5.4)},
    "H": {"egnn": (12.0, 9.52), "equivariant-transformer": (6.16, 5.6)},
    "G": {"egnn": (12.0, 11.5), "equivariant-transformer": (7.62, 6.6)},
    "Cv": {"egnn": (0.031, 0.032), "equivariant-transformer": (0.026, 0.023)},
}
# A sum over atoms for every target: one kind of readout for both networks.
SUMS = ("--set", f"outputs={','.join(['scalar'] * len(PAPER))}")
# network -> steps, and its own settings
NETWORKS = {"egnn": (1000, ()), "equivariant-transformer": (500, SUMS)}
MODES = ("off", "frozen", "movable")


def name_of(network: str, mode: str, seed: int) -> str:
    """A training's."""
    return f"{network}/{mode}/{seed}"


def runs(options: argparse.Namespace) -> list[study.Run]:
    """A training a network, mode and seed, seed after seed."""
    common = (
        *("--target", ",".join(PAPER), "--batch-size", 32, "--lr", 0.001, "--warmup", 100),
        *("--clip", 2, "--ema", 0.995, "--set", f"hidden={options.hidden}", "--set", "layers=4"),
    )
    found = []
    for network, (usual, own) in NETWORKS.items():
        steps = options.steps or usual
        limit = ("--steps", steps, "--valid-every", steps)
        for mode in MODES:
            for seed in range(options.seeds):
                extra = (*own, "--polarization", mode, "--seed", seed)
                words = (network, options.data, *common, *limit, *extra)
                found.append(study.Run(name_of(network, mode, seed), words))
    return study.seed_after_seed(found)


def errors_of(results: study.Results, network: str, mode: str, target: str) -> Iterator[float]:
    """A target's, seed by seed; energies in meV."""
    seed = 0
    while (name := name_of(network, mode, seed)) in results:
        error = results[name]["test"][target]
        yield float(error["value"]) * (1000 if error["unit"] == "eV" else 1)
        seed += 1


def mean_ratios(results: study.Results, network: str, mode: str) -> list[float]:
    """Errors with points by those without, the mean over all targets, seed by seed."""
    ratios = []
    for target in PAPER:
        pairs = (errors_of(results, network, which, target) for which in (mode, "off"))
        ratios.append([own / off for own, off in zip(*pairs, strict=False)])
    return [statistics.mean(seed) for seed in zip(*ratios, strict=True)]


def report(results: study.Results) -> None:
    """Means with standard errors, and each seed's ratios to the one without points."""
    heads = ("network", "target", "seeds", *MODES, "frozen / off", "movable / off", "printed")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for network in NETWORKS:
        for target, published in PAPER.items():
            rows = {mode: list(errors_of(results, network, mode, target)) for mode in MODES}
            cells = [study.with_error(row, ".4g") for row in rows.values()]
            for mode in MODES[1:]:
                pairs = zip(rows[mode], rows["off"], strict=False)
                cells.append(study.with_error([own / off for own, off in pairs], ".3f"))
            without, with_points = published[network]
            cells.append(f"{with_points / without:.2f}")
            print(f"| {network} | {target} | {len(rows['movable'])} | {' | '.join(cells)} |")
        means = [study.with_error(mean_ratios(results, network, mode), ".3f") for mode in MODES[1:]]
        print(f"| {network} | mean of the twelve | | | | | {' | '.join(means)} | |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/polarization")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, help="of every training, instead of its own")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study.conduct(runs(options), options, report)


if __name__ == "__main__":
    main()
