"""Where charged particles will be: EGNN with velocities, without and with movable points.

    neupol data nbody -o nbody.h5
    OMP_NUM_THREADS=1 python benchmarks/nbody.py nbody.h5 --out runs/nbody
    python benchmarks/nbody.py nbody.h5 --out runs/nbody --report --plot docs/nbody_loss.png

The published recipe (batches of 100, Adam 5e-4, no schedule, validated every fifth epoch, the test
error at the best validation), for fewer epochs than the published 10,000 unless --epochs says so.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import study

from neupol_cli import figures

STEPS = 30  # an epoch of 3,000 systems
# Test error of the published 10,000 epochs (Kwak and Jo, n-body table).
PAPER = {"off": "0.0071", "frozen": "-", "movable": "0.0051", "both": "0.0051"}
# Algorithm 2 writes x_t: particles move as in the baseline, and points beside them.
BOTH = ("--polarization", "movable", "--set", "particles_move=true")


def runs(data: Path, epochs: int, seeds: int) -> list[study.Run]:
    """A training a mode and seed."""
    common = ("egnn-nbody", data, "--epochs", epochs)
    return [
        study.Run(f"{mode}-{seed}", (*common, *words, "--seed", seed))
        for seed in range(seeds)
        for mode in PAPER
        for words in [BOTH if mode == "both" else ("--polarization", mode)]
    ]


def report(results: study.Results) -> None:
    """The table of what has been trained so far."""
    print("| points | test MSE, a run each | mean | best at epoch | published |")
    print("|---|---|---|---|---|")
    for mode, published in PAPER.items():
        chosen = [result for name, result in results.items() if name.startswith(f"{mode}-")]
        errors = [result["test"]["mse"]["value"] for result in chosen]
        mean = f"{statistics.mean(errors):.5f}" if errors else "-"
        epochs = ", ".join(str(result["best_step"] // STEPS) for result in chosen)
        shown = ", ".join(f"{error:.5f}" for error in errors)
        print(f"| {mode} | {shown} | {mean} | {epochs} | {published} |")


def draw(path: Path, runs: Path) -> None:
    """Every validation of the first seed's runs over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for mode in PAPER:
        if not (runs / f"{mode}-0").exists():
            continue
        lines = (runs / f"{mode}-0" / "metrics.jsonl").read_text().splitlines()
        valid = [line for line in map(json.loads, lines) if "valid" in line]
        epochs = [line["step"] / STEPS for line in valid]
        axes.plot(epochs, [line["valid"]["mse"] for line in valid], label=mode, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="epochs", ylabel="validation MSE")
    axes.grid(True, which="both", color="0.9")
    axes.legend(title="points")
    figures.save(figure, path, dpi=150)


def main() -> None:
    parser = study.options(__doc__ or "", "runs/nbody")
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="draw the validations here")
    options = parser.parse_args()
    study.conduct(
        runs(options.data, options.epochs, options.seeds),
        options,
        report,
    )
    if options.plot:
        draw(options.plot, options.out)


if __name__ == "__main__":
    main()
