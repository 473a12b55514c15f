"""What learned tables of distances become on QM9, target by target, and how large they should be.

    neupol data qm9 --limit 6000 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/tables.py qm9.h5 --out runs/tables

Gao et al. 2022, Table 3 and Figures 1 to 5, in small: EGNN, a network a target, tables random at
the start. No two trainings share a seed, since one seed starts all targets from the same tables.

    target/NAME/SEED     a smooth table, each of the twelve targets
    weight/L/SEED        U0, the smoothness loss weighted by L
    size/S/SEED          U0, S numbers a distance
    bins/B/L/SEED        U0, B bins, the smoothness loss weighted by L
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import combinations, count
from pathlib import Path
from typing import Any

import numpy as np
import study

from neupol_cli.encoding.study import Tables, characteristics, principal, profile, read, similarity

TARGETS = ("alpha", "gap", "homo", "lumo", "mu", "Cv", "G", "H", "r2", "U", "U0", "zpve")
# Less their free atoms, as published: what is left after a fit of the composition gives EGNN
# nothing to begin with.
ENERGIES = ("U0", "U", "H", "G")
ALIKE = (("U", "U0", "H", "G", "zpve"), ("alpha", "mu", "gap"))  # of Figure 4
COMMON = (
    *("--batch-size", 16, "--lr", 0.002, "--warmup", 200, "--clip", 2, "--ema", 0.995),
    *("--set", "hidden=32", "--set", "layers=4", "--set", "encoding_range=12"),
    *("--encoding", "learned", "--set", "table_start=random"),
)
WEIGHT, SIZE, BINS = 0.3, 32, 64
WEIGHTS, SIZES, SEVERAL_BINS = (0, 0.01, 0.3, 1), (4, 8, 16, 64), (8, 16, 256, 1024)
SHORT, LONG = (1.0, 3.0), (6.0, 10.0)  # Angstrom


def training(
    target: str, weight: float = WEIGHT, size: int = SIZE, bins: int = BINS
) -> tuple[Any, ...]:
    """What `neupol fit` is told of one."""
    references = "atoms" if target in ENERGIES else "none"
    table = ("--set", f"encoding_size={size}", "--set", f"encoding_bins={bins}")
    return ("--target", target, "--references", references, "--smoothness", weight, *table)


def variants() -> dict[str, tuple[Any, ...]]:
    """Name -> what differs."""
    found = {f"target/{name}": training(name) for name in TARGETS}
    found |= {f"weight/{w}": training("U0", w) for w in WEIGHTS if w != WEIGHT}
    found |= {f"size/{s}": training("U0", size=s) for s in SIZES}
    both = [(b, w) for b in SEVERAL_BINS for w in (0, WEIGHT)]
    return found | {f"bins/{b}/{w}": training("U0", w, bins=b) for b, w in both}


def runs(options: argparse.Namespace) -> list[study.Run]:
    """Every training, seed after seed."""
    own = count(1)
    limit = ("--steps", options.steps, "--valid-every", options.steps)
    return [
        study.Run(
            f"{name}/{seed}", ("egnn", options.data, *limit, *COMMON, *chosen, "--seed", next(own))
        )
        for seed in range(options.seeds)
        for name, chosen in variants().items()
    ]


class Record:
    """What has been trained: errors and tables, by variant."""

    def __init__(self, results: study.Results, out: Path) -> None:
        self.results, self.out = results, out

    def names(self, variant: str) -> list[str]:
        """Of its trainings, seed by seed."""
        return [name for name in self.results if name.rpartition("/")[0] == variant]

    def errors(self, variant: str) -> list[float]:
        """Of its only target, as they are printed; energies in meV."""
        found = [next(iter(self.results[name]["test"].values())) for name in self.names(variant)]
        return [float(e["value"]) * (1000 if e["unit"] == "eV" else 1) for e in found]

    def tables(self, variant: str) -> list[Tables]:
        """Seed by seed."""
        studies = read([str(self.out / name) for name in self.names(variant)])
        return [one.tables[0] for one in studies]


def short_to_long(tables: Tables) -> float:
    """How much steeper curves are where atoms are bonded than far away, by Figure 3's profile."""
    steep, x = profile(tables), tables.x[0]
    near, far = (steep[(x >= low) & (x <= high)].mean() for low, high in (SHORT, LONG))
    return float(near / far)


def two_components(tables: Tables) -> float:
    """The share of the first layer's variance that two components hold."""
    return float(principal(tables.heights[0])[1].sum())


COLUMNS: dict[str, Callable[[Tables], float | None]] = {
    "non-linearity": lambda t: characteristics(t.x, t.heights)["nonlinearity"],
    "non-monotonicity": lambda t: characteristics(t.x, t.heights)["nonmonotonicity"],
    "diversity": lambda t: characteristics(t.x, t.heights)["diversity"],
    "smoothness": lambda t: characteristics(t.x, t.heights)["smoothness"],
    "two components": two_components,
    "steeper at 1 to 3 A than at 6 to 10": short_to_long,
}


def row(cells: Iterable[object]) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def heads(*cells: str) -> None:
    print()
    row(cells)
    print("|" + "---|" * len(cells))


def of_targets(record: Record) -> None:
    """Table 3 and Figure 3, and what becomes of U0's tables without the loss."""
    heads("tables of", "error", *COLUMNS)
    kinds = [f"target/{name}" for name in TARGETS]
    kinds += [f"weight/{w}" for w in WEIGHTS if w != WEIGHT]
    for variant in kinds:
        tables = record.tables(variant) if record.names(variant) else []
        if not tables:
            continue
        numbers = [[measure(t) for t in tables] for measure in COLUMNS.values()]
        cells = [study.with_error([v for v in n if v is not None], ".2f") for n in numbers]
        row([variant, study.with_error(record.errors(variant), ".3g"), *cells])


def of_similarity(record: Record) -> None:
    """Figure 4: between targets that are said to be alike, that are not, and seeds of one."""
    networks = [(name, t) for name in TARGETS for t in record.tables(f"target/{name}")]
    pairs = [("a network and itself", t, t) for _, t in networks]
    pairs += [(kind_of(a, b), t, u) for (a, t), (b, u) in combinations(networks, 2)]
    found: dict[str, list[float]] = {}
    for kind, one, other in pairs:
        if (value := similarity(one, other)) is not None:
            found.setdefault(kind, []).append(value)
    heads("similarity of", "pairs", "mean", "standard deviation")
    for kind, values in found.items():
        row([kind, len(values), f"{np.mean(values):.3f}", f"{np.std(values):.3f}"])


def kind_of(a: str, b: str) -> str:
    """What two targets are to each other."""
    if a == b:
        return "two seeds of a target"
    same = next((group for group in ALIKE if a in group and b in group), None)
    return "other targets" if same is None else ", ".join(same)


def of_sizes(record: Record) -> None:
    """Figure 5: errors of U0 by the table's size, number of bins and weight of the loss, meV."""
    heads("U0, meV", "seeds", "error")
    base = {f"size {SIZE}, {BINS} bins, weight {WEIGHT}": "target/U0"}
    names = {name.replace("/", " "): name for name in variants() if not name.startswith("target")}
    for words, variant in (base | names).items():
        if errors := record.errors(variant):
            row([words, len(errors), study.with_error(errors, ".0f")])


def report(results: study.Results, out: Path) -> None:
    """All tables of what there is."""
    record = Record(results, out)
    of_targets(record)
    of_similarity(record)
    of_sizes(record)


def main() -> None:
    parser = study.options(__doc__ or "", "runs/tables")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study.conduct(runs(options), options, lambda results: report(results, options.out))


if __name__ == "__main__":
    main()
