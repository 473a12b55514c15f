"""Neural Polarization on QM9: off, frozen and movable points at an equal number of steps.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/polarization.py qm9.h5 --out runs/polarization

Kwak and Jo, Tables 1 and 3, in small: EGNN and the equivariant transformer, all else equal. Four
targets share a trunk, so that one run answers for all of them.
"""

from __future__ import annotations

from pathlib import Path

import study

# A sum over atoms for every target: one kind of readout for both networks.
SUMS = ("--set", "outputs=scalar,scalar,scalar,scalar")
NETWORKS = {"egnn": (), "equivariant-transformer": SUMS}
MODES = ("off", "frozen", "movable")
TARGETS = ("mu", "homo", "zpve", "U0")
# Table 1 (without, with movable points) and Table 3 (Equiformer: off, frozen, movable).
PAPER = {
    "mu": "EGNN 0.029 -> 0.030; Equiformer 0.0118, 0.0159, 0.0109",
    "homo": "EGNN 29 -> 29.9; Equiformer 16.5, 17.7, 16.7 (meV)",
    "zpve": "EGNN 1.55 -> 1.50 (meV)",
    "U0": "EGNN 11 -> 9.52; Equiformer 6.59, 8.80, 5.54 (meV)",
}


def runs(data: Path, steps: int, batch: int, hidden: int, seed: int) -> list[study.Run]:
    """A training a network and mode."""
    common = (
        *("--target", ",".join(TARGETS), "--steps", steps, "--batch-size", batch, "--lr", 0.001),
        *("--warmup", 200, "--clip", 2, "--ema", 0.995, "--set", f"hidden={hidden}"),
        *("--set", "layers=4", "--valid-every", steps, "--seed", seed),
    )
    return [
        study.Run(f"{network}-{mode}", (network, data, *common, *own, "--polarization", mode))
        for network, own in NETWORKS.items()
        for mode in MODES
    ]


def report(results: study.Results) -> None:
    """The table of what has been trained so far."""
    print("| network | target | off | frozen | movable | movable / off | published |")
    print("|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        row = [results.get(f"{network}-{mode}") for mode in MODES]
        for target in TARGETS:
            errors = [None if result is None else result["test"][target] for result in row]
            values = [None if result is None else float(result["value"]) for result in errors]
            cells = " | ".join("-" if value is None else f"{value:.4g}" for value in values)
            ratio = f"{values[2] / values[0]:.3f}" if values[0] and values[2] else "-"
            unit = next((result["unit"] for result in errors if result is not None), "")
            print(f"| {network} | {target}, {unit} | {cells} | {ratio} | {PAPER[target]} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/polarization")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    every = runs(
        options.data,
        options.steps,
        options.batch_size,
        options.hidden,
        options.seed,
    )
    study.conduct(every, options, report)


if __name__ == "__main__":
    main()
