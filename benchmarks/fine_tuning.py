"""What trained weights are worth where labels are few: PBE energies and forces of rMD17, learnt
from the bundled forces (PBE, with forces, other molecules), from the bundled qm9 (B3LYP, minima, no
forces) and from random weights.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/fine_tuning.py rmd17 --out runs/fine_tuning

The folder holds `rmd17_NAME_train_01.npz` and `rmd17_NAME_test_01.npz` of the molecules. All
trainings of a molecule have the same network, the same number of steps of the same size, and so the
same time; a seed chooses weights, order, and which labels are taken. Labels of 20 are kept from
training, to say how far off the model is. The first table: mean absolute errors of the 1,000 test
configurations, mean and standard error over the seeds. The starts have rates of their own; the
second table is of the first seed with the rates exchanged, to tell the start from its rate. The
third is of ethanol alone: qm9's weights with parts of them held or slowed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import study

STEPS = {"ethanol": 600, "aspirin": 400}
SEEDS = (0, 1, 2)
# Where the weights come from, with the rate for these.
SCRATCH, TUNED, KIN = ("painn",), ("--from", "qm9"), ("--from", "forces")
RATES = {SCRATCH: 0.007, TUNED: 0.004, KIN: 0.004}
EXCHANGED = {SCRATCH: 0.004, TUNED: 0.007, KIN: 0.007}
FEW, MANY = "190,10", "950,50"  # labels to train and to validate


@dataclass(frozen=True)
class Contestant:
    """One row of a table: labels and where the weights come from, and what else is different.

    Attributes:
        molecule: of rMD17.
        name: of the row.
        partition: how many labels are trained and validated on.
        start: where the weights come from, for `neupol fit`.
        more: other options.
        seeds: it is trained with.
        exchanged: whether it has the other rate.
    """

    molecule: str
    name: str
    partition: str
    start: tuple[str, ...]
    more: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    exchanged: bool = False

    @property
    def rate(self) -> float:
        return (EXCHANGED if self.exchanged else RATES)[self.start]

    def run_name(self, seed: int) -> str:
        exchanged = ", rates exchanged" if self.exchanged else ""
        return f"{self.molecule}, {self.name}, seed {seed}{exchanged}"


STARTS = {
    "200, from forces": (FEW, KIN),
    "200, from qm9": (FEW, TUNED),
    "200, from random weights": (FEW, SCRATCH),
    "1000, from random weights": (MANY, SCRATCH),
}
HELD = {
    "embeddings and first layer held": ("--freeze", "1"),
    "layers at a fifth of the rate": ("--layer-lr", "layers=0.2"),
}
FIRST = tuple(Contestant(m, n, *of) for m in STEPS for n, of in STARTS.items())
OTHER_RATES = tuple(
    Contestant(m, n, *of, seeds=SEEDS[:1], exchanged=True)
    for m in STEPS
    for n, of in STARTS.items()
)
OF_ETHANOL = tuple(
    Contestant("ethanol", f"200, from qm9, {n}", FEW, TUNED, m) for n, m in HELD.items()
)
TABLES = {"": FIRST, "Rates exchanged:": OTHER_RATES, "Ethanol, looked into:": OF_ETHANOL}
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


def runs(folder: Path, out: Path) -> Iterator[study.Run]:
    """Every training, all of a seed before the next one's, a table's before the next one's."""
    common = (
        *("--target", "energy,forces", "--batch-size", 5, "--optimizer", "muon", "--warmup", 50),
        *("--clip", 2, "--ema", 0.99, "--valid-every", 10**6, "--threads", 1, "--device", "cpu"),
    )
    for contestants in TABLES.values():
        for seed in SEEDS:
            for one in (one for one in contestants if seed in one.seeds):
                data = dataset(folder, out, one.molecule, one.partition, seed)
                own = ("--lr", one.rate, "--steps", STEPS[one.molecule], "--seed", seed, *one.more)
                yield study.Run(one.run_name(seed), (*one.start, data, *common, *own))


def report(results: study.Results) -> None:
    """The tables of what has been trained so far."""
    for title, contestants in TABLES.items():
        print(f"\n{title}\n" if title else "")
        print(f"| molecule | labels | rate | {' | '.join(LABELS.values())} | seeds |")
        print("|---" * (len(LABELS) + 4) + "|")
        for one in contestants:
            names = [one.run_name(seed) for seed in one.seeds]
            if done := [results[name]["test"] for name in names if name in results]:
                print(f"| {' | '.join(_row(one, done))} |")


def _row(one: Contestant, done: list[dict[str, Any]]) -> list[str]:
    errors = [
        study.with_error([1000 * float(r[key]["value"]) for r in done], ".1f") for key in LABELS
    ]
    return [one.molecule, one.name, str(one.rate), *errors, str(len(done))]


def main() -> None:
    parser = study.options(__doc__ or "", "runs/fine_tuning")
    parser.add_argument("data", type=Path, help="folder of the revised MD17's files")
    options = parser.parse_args()
    study.conduct(list(runs(options.data, options.out)), options, report)


if __name__ == "__main__":
    main()
