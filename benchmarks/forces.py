"""Forces from 1,000 configurations: how a distance enters, and whether points move (rMD17).

    for name in ethanol benzene aspirin; do
        neupol data md17 rmd17_${name}_train.npz --test rmd17_${name}_test.npz -o data/$name.h5
    done
    OMP_NUM_THREADS=1 python benchmarks/forces.py data --out runs/forces
    OMP_NUM_THREADS=1 python benchmarks/forces.py data --part points --steps 1000 --out runs/forces

Three studies, each of several seeds. ``encodings``, Gao et al. 2022, Table 1: EGNN and the distance
transformer with r^2, a learned table of r, and a learned table kept smooth. ``starts``: EGNN on
ethanol with tables that start at random, as a table of embeddings does, kept smooth to a smaller
and a larger degree, and with the start of ours, which is smooth. ``points``, Kwak and Jo, Table 2:
the equivariant transformer without and with movable points at equal steps, and without them for
the time that movable ones take. The networks are smaller and the trainings far shorter than the
published ones; the record says how far each has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import study

MOLECULES = ("ethanol", "benzene", "aspirin")
# The longest distance in the data, rounded up, Angstrom: what a learned table has to span.
RANGES = {"ethanol": 5, "benzene": 6, "aspirin": 11}
STEPS = {"ethanol": 8000, "benzene": 8000, "aspirin": 5000}
NETWORKS = ("egnn", "distance-transformer")
TABLE = ("--encoding", "learned", "--set", "encoding_bins=96", "--lr", 0.002)
RANDOM = (*TABLE, "--set", "table_start=random")
ENCODINGS = {
    "squared": ("--encoding", "squared", "--lr", 0.001),  # at 0.002 EGNN does not begin to learn
    "learned": TABLE,
    "smooth": (*TABLE, "--smoothness", 0.001),
}
STARTS = {
    "random": RANDOM,
    "random, lambda 0.01": (*RANDOM, "--smoothness", 0.01),
    "random, lambda 0.3": (*RANDOM, "--smoothness", 0.3),
    "smooth": TABLE,
}
TRANSFORMER = "equivariant-transformer"
POINTS = {"off": "off", "movable": "movable", "off, equal time": "off"}
# Processor seconds of a step with movable points, those of one without for 1; measured.
PRICE = 2.4
# meV/Angstrom. Gao et al., Table 1 (Transformer, EGNN: without, PosEnc, Smooth).
PAPER = {
    ("distance-transformer", "ethanol"): "51.0, 13.8, 6.2",
    ("distance-transformer", "benzene"): "36.8, 3.3, 1.9",
    ("distance-transformer", "aspirin"): "49.7, 24.6, 12.3",
    ("egnn", "ethanol"): "50.1, 4.9, 3.5",
    ("egnn", "benzene"): "36.9, 1.5, 1.3",
    ("egnn", "aspirin"): "51.9, 9.3, 6.7",
}


@dataclass(frozen=True)
class Study:
    """What all trainings have in common.

    Attributes:
        data: the folder of the molecules' files.
        steps: of every training, or None for each molecule's own.
        seeds: how many.
    """

    data: Path
    steps: int | None
    seeds: int

    def runs(
        self, network: str, molecule: str, variants: Mapping[str, tuple[Any, ...]], share: float = 1
    ) -> list[study.Run]:
        """Every seed of a network with several settings, for ``share`` of the steps."""
        limit = round(share * (self.steps or STEPS[molecule]))
        common = (
            *(network, self.data / f"{molecule}.h5", "--target", "energy,forces", "--ema", 0.995),
            *("--warmup", 100, "--set", "hidden=64", "--set", "layers=4", "--steps", limit),
            *("--batch-size", 4 if molecule == "aspirin" else 8, "--valid-every", limit),
        )
        return [
            study.Run(name_of(molecule, network, name, seed), (*common, *own, "--seed", seed))
            for seed in range(self.seeds)
            for name, own in variants.items()
        ]

    def errors(
        self, results: study.Results, molecule: str, network: str, variant: str, label: str
    ) -> list[float]:
        """Mean absolute errors on the test set in meV, or meV/Angstrom, of the seeds there are."""
        names = [name_of(molecule, network, variant, seed) for seed in range(self.seeds)]
        found = [results[name]["test"][label] for name in names if name in results]
        return [1000 * float(error["value"]) for error in found]


def name_of(molecule: str, network: str, variant: str, seed: int) -> str:
    """A training's."""
    return f"{molecule}/{network}/{variant}/{seed}"


def encoding_runs(those: Study) -> list[study.Run]:
    """Table 1 of Gao et al."""
    return [
        run
        for molecule in MOLECULES
        for network in NETWORKS
        for run in those.runs(network, molecule, ranged(ENCODINGS, molecule))
    ]


def start_runs(those: Study) -> list[study.Run]:
    """How a table starts, for a quarter of the steps."""
    return those.runs("egnn", "ethanol", ranged(STARTS, "ethanol"), 0.25)


def ranged(variants: Mapping[str, tuple[Any, ...]], molecule: str) -> dict[str, tuple[Any, ...]]:
    """The same, spanning the molecule's distances."""
    reach = ("--set", f"encoding_range={RANGES[molecule]}")
    return {name: (*own, *reach) for name, own in variants.items()}


def point_runs(those: Study) -> list[study.Run]:
    """Table 2 of Kwak and Jo, for half of the steps; the longer ones come last."""
    words = {
        name: ("--polarization", mode, "--lr", 0.001, "--clip", 10) for name, mode in POINTS.items()
    }
    longer = {"off, equal time": words.pop("off, equal time")}
    equal = [run for m in MOLECULES for run in those.runs(TRANSFORMER, m, words, 0.5)]
    last = [run for m in MOLECULES for run in those.runs(TRANSFORMER, m, longer, 0.5 * PRICE)]
    return study.seed_after_seed(equal) + study.seed_after_seed(last)


def report_encodings(results: study.Results, those: Study) -> None:
    """The table of what has been trained so far, meV/Angstrom."""
    print("| network | molecule | seeds | squared | learned | smooth | published |")
    print("|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        for molecule in MOLECULES:
            rows = [those.errors(results, molecule, network, e, "forces") for e in ENCODINGS]
            cells = " | ".join(study.with_error(row, ".1f") for row in rows)
            published = PAPER[network, molecule]
            print(f"| {network} | {molecule} | {len(rows[0])} | {cells} | {published} |")


def report_starts(results: study.Results, those: Study) -> None:
    """Seeds, and their mean with its standard error, meV/Angstrom."""
    print("| table | seeds | forces | energy |\n|---|---|---|---|")
    for name in STARTS:
        forces, energy = (
            those.errors(results, "ethanol", "egnn", name, label) for label in ("forces", "energy")
        )
        seeds = ", ".join(f"{error:.1f}" for error in forces)
        means = f"{study.with_error(forces, '.1f')} | {study.with_error(energy, '.1f')}"
        print(f"| {name} | {seeds} | {means} |")


def report_points(results: study.Results, those: Study) -> None:
    """Means with standard errors, and each seed's ratio to the one without points."""
    print("| molecule | points | seeds | forces | against off | energy | against off |")
    print("|---|---|---|---|---|---|---|")
    for molecule in MOLECULES:
        for name in POINTS:
            cells, count = [], 0
            for label in ("forces", "energy"):
                own, off = (
                    those.errors(results, molecule, TRANSFORMER, n, label) for n in (name, "off")
                )
                ratios = [error / its for error, its in zip(own, off, strict=False)]
                cells += [study.with_error(own, ".1f"), study.with_error(ratios, ".3f")]
                count = len(own)
            print(f"| {molecule} | {name} | {count} | {' | '.join(cells)} |")


Part = tuple[Callable[[Study], list[study.Run]], Callable[[study.Results, Study], None]]
PARTS: dict[str, Part] = {
    "encodings": (encoding_runs, report_encodings),
    "starts": (start_runs, report_starts),
    "points": (point_runs, report_points),
}


def main() -> None:
    parser = study.options(__doc__ or "", "runs/forces")
    parser.add_argument("data", type=Path, help="folder with ethanol.h5, benzene.h5, aspirin.h5")
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--steps", type=int, help="of every training, instead of its own")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    those = Study(options.data, options.steps, options.seeds)
    parts = [PARTS[options.part]] if options.part else list(PARTS.values())

    def told(results: study.Results) -> None:
        for _, report in parts:
            report(results, those)
            print()

    study.conduct([run for runs, _ in parts for run in runs(those)], options, told)


if __name__ == "__main__":
    main()
