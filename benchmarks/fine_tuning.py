"""What trained weights are worth where labels are few: PBE energies and forces of rMD17, learnt
from the bundled qm9 (B3LYP, minima, no forces) and from random weights.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/fine_tuning.py rmd17 --out runs/fine_tuning

The folder holds `rmd17_NAME_train_01.npz` and `rmd17_NAME_test_01.npz` of the molecules. All
trainings of a molecule have the same network, the same number of steps of the same size, and so the
same time; a seed chooses weights, order, and which labels are taken. Labels of 20 are kept from
training, to say how far off the model is. The first table: mean absolute errors of the 1,000 test
configurations, mean and standard error over the seeds. The two starts have rates of their own; the
second table is of the first seed with the rates exchanged, to tell the start from its rate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import study

STEPS = {"ethanol": 600, "aspirin": 400}
SEEDS = (0, 1, 2)
# Training and validation labels, and where the weights come from, with the rate for these.
SCRATCH, TUNED = ("painn",), ("--from", "qm9")
RATES = {SCRATCH: 0.007, TUNED: 0.004}
EXCHANGED = {SCRATCH: RATES[TUNED], TUNED: RATES[SCRATCH]}
CONTESTANTS = {
    "200, from qm9": ("190,10", TUNED),
    "200, from random weights": ("190,10", SCRATCH),
    "1000, from random weights": ("950,50", SCRATCH),
}
LABELS = {"energy": "energy, meV", "forces": "forces, meV/Angstrom"}


def dataset(folder: Path, out: Path, molecule: str, partition: str, seed: int) -> Path:
    """The file of a molecule with some of its labels to learn from, made where it is not there."""
    path = out / f"{molecule}-{partition.replace(',', '-')}-{seed}.h5"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        train, test = (folder / f"rmd17_{molecule}_{part}_01.npz" for part in ("train", "test"))
        words = (train, "--test", test, "-o", path, "--partition", partition, "--seed", seed)
        command = [sys.executable, "-m", "neupol_cli", "data", "md17", *map(str, words)]
        subprocess.run(command, check=True)
    return path


def name_of(molecule: str, contestant: str, seed: int, exchanged: bool = False) -> str:
    return f"{molecule}, {contestant}, seed {seed}{', rates exchanged' if exchanged else ''}"


def runs(folder: Path, out: Path) -> list[study.Run]:
    """Every training, all of a seed before the next one's, those of exchanged rates last."""
    common = (
        *("--target", "energy,forces", "--batch-size", 5, "--optimizer", "muon", "--warmup", 50),
        *("--clip", 2, "--ema", 0.99, "--valid-every", 10**6, "--threads", 1, "--device", "cpu"),
    )
    found = []
    for seed, exchanged in [*((seed, False) for seed in SEEDS), (SEEDS[0], True)]:
        for molecule, steps in STEPS.items():
            for contestant, (partition, start) in CONTESTANTS.items():
                data = dataset(folder, out, molecule, partition, seed)
                rate = (EXCHANGED if exchanged else RATES)[start]
                own = ("--lr", rate, "--steps", steps, "--seed", seed)
                name = name_of(molecule, contestant, seed, exchanged)
                found.append(study.Run(name, (*start, data, *common, *own)))
    return found


def report(results: study.Results) -> None:
    """The tables of what has been trained so far."""
    table(results, SEEDS, exchanged=False)
    print("\nRates exchanged:\n")
    table(results, SEEDS[:1], exchanged=True)


def table(results: study.Results, seeds: Sequence[int], exchanged: bool) -> None:
    print(f"| molecule | labels | rate | {' | '.join(LABELS.values())} | seeds |")
    print("|---" * (len(LABELS) + 4) + "|")
    for molecule in STEPS:
        for contestant, (_, start) in CONTESTANTS.items():
            names = [name_of(molecule, contestant, seed, exchanged) for seed in seeds]
            done = [results[name]["test"] for name in names if name in results]
            if done:
                rate = (EXCHANGED if exchanged else RATES)[start]
                shown = [
                    study.with_error([1000 * float(r[key]["value"]) for r in done], ".1f")
                    for key in LABELS
                ]
                row = [molecule, contestant, str(rate), *shown, str(len(done))]
                print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/fine_tuning")
    parser.add_argument("data", type=Path, help="folder of the revised MD17's files")
    options = parser.parse_args()
    study.conduct(runs(options.data, options.out), options, report)


if __name__ == "__main__":
    main()
