"""Forces from 1,000 configurations: how a distance enters, and whether points move (rMD17).

    for name in ethanol benzene aspirin; do
        neupol data md17 rmd17_${name}_train.npz --test rmd17_${name}_test.npz -o data/$name.h5
    done
    OMP_NUM_THREADS=1 python benchmarks/forces.py data --out runs/forces

Two studies on the same data at equal numbers of steps. Gao et al. 2022, Table 1: EGNN and the
distance transformer with r^2, a learned table of r, and a learned table kept smooth. Kwak and Jo,
Table 2: the equivariant transformer without and with movable points. The networks are smaller and
the trainings far shorter than the published ones; the record says how far each has come.
"""

from __future__ import annotations

from pathlib import Path

import study

MOLECULES = ("ethanol", "benzene", "aspirin")
# The longest distance in the data, rounded up, Angstrom: what a learned table has to span.
RANGES = {"ethanol": 5, "benzene": 6, "aspirin": 11}
STEPS = {"ethanol": 8000, "benzene": 8000, "aspirin": 5000}
NETWORKS = ("egnn", "distance-transformer")
TABLE = ("--encoding", "learned", "--set", "encoding_bins=96", "--lr", 0.002)
ENCODINGS = {
    "squared": ("--encoding", "squared", "--lr", 0.001),  # at 0.002 EGNN does not begin to learn
    "learned": TABLE,
    "smooth": (*TABLE, "--smoothness", 0.001),
}
POINTS = ("off", "movable")
TRANSFORMER = "equivariant-transformer"
# meV/Angstrom. Gao et al., Table 1 (Transformer, EGNN: without, PosEnc, Smooth).
PAPER = {
    ("distance-transformer", "ethanol"): "51.0, 13.8, 6.2",
    ("distance-transformer", "benzene"): "36.8, 3.3, 1.9",
    ("distance-transformer", "aspirin"): "49.7, 24.6, 12.3",
    ("egnn", "ethanol"): "50.1, 4.9, 3.5",
    ("egnn", "benzene"): "36.9, 1.5, 1.3",
    ("egnn", "aspirin"): "51.9, 9.3, 6.7",
}


def runs(data: Path, steps: int | None, seed: int) -> list[study.Run]:
    """Every training of both studies; molecules with more atoms come fewer at a time."""
    common = ("--target", "energy,forces", "--ema", 0.995, "--warmup", 100)
    small = ("--set", "hidden=64", "--set", "layers=4", "--seed", seed)
    runs = []
    for molecule in MOLECULES:
        limit = steps or STEPS[molecule]
        batch = ("--batch-size", 4 if molecule == "aspirin" else 8, "--steps")
        file = data / f"{molecule}.h5"
        for network in NETWORKS:
            for encoding, chosen in ENCODINGS.items():
                extra = (*chosen, "--set", f"encoding_range={RANGES[molecule]}")
                arguments = (network, file, *common, *small, *batch, limit, *extra)
                runs.append(study.Run(f"{molecule}-{network}-{encoding}", arguments))
        for mode in POINTS:
            extra = ("--polarization", mode, "--lr", 0.001, "--clip", 10)
            arguments = (TRANSFORMER, file, *common, *small, *batch, limit // 2, *extra)
            runs.append(study.Run(f"{molecule}-{TRANSFORMER}-{mode}", arguments))
    return runs


def error(results: study.Results, name: str) -> float | None:
    """Mean absolute force error on the test set, meV/Angstrom."""
    result = results.get(name)
    return None if result is None else 1000 * float(result["test"]["forces"]["value"])


def shown(values: list[float | None]) -> str:
    return " | ".join("-" if value is None else f"{value:.1f}" for value in values)


def report(results: study.Results) -> None:
    """Both tables of what has been trained so far."""
    print("| network | molecule | squared | learned | smooth | squared / learned | published |")
    print("|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        for molecule in MOLECULES:
            values = [error(results, f"{molecule}-{network}-{e}") for e in ENCODINGS]
            ratio = f"{values[0] / values[1]:.1f}" if values[0] and values[1] else "-"
            published = PAPER[network, molecule]
            print(f"| {network} | {molecule} | {shown(values)} | {ratio} | {published} |")
    print("\n| equivariant transformer | off | movable | movable / off |\n|---|---|---|---|")
    for molecule in MOLECULES:
        values = [error(results, f"{molecule}-{TRANSFORMER}-{mode}") for mode in POINTS]
        ratio = f"{values[1] / values[0]:.2f}" if values[0] and values[1] else "-"
        print(f"| {molecule} | {shown(values)} | {ratio} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/forces")
    parser.add_argument("data", type=Path, help="folder with ethanol.h5, benzene.h5, aspirin.h5")
    parser.add_argument("--steps", type=int, help="of every training, instead of its own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    study.conduct(
        runs(options.data, options.steps, options.seed),
        options,
        report,
    )


if __name__ == "__main__":
    main()
