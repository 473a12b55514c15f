"""Where movable points go, over the molecules of a dataset: how far, and which way.

    neupol fit egnn qm9.h5 -o runs/zpve --target zpve --polarization movable
    OMP_NUM_THREADS=1 python benchmarks/displacements.py runs/zpve runs/homo qm9.h5 --count 1000

Kwak and Jo, section 6: points stay within half a bond; those of zpve go outwards, those of other
targets elsewhere. For each model, over all atoms and by element:

    moved             mean |x~ - x| (Angstrom) at the end of the path
    within half bond  share of atoms whose point went less than half their shortest bond
    outward           mean component along the direction from the centre of mass (Angstrom); over
                      all atoms with its standard error, molecules being the independent samples
    cosine            mean cosine between displacement and that direction
    outwards          share of atoms whose point went outwards
    to bond           mean angle to the nearest bond (degrees); to a lone bond, chance gives 90
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli import registry
from neupol_cli.io import hdf5
from neupol_cli.models.base import Model
from neupol_cli.trajectory.measures import STILL, AtomMeasures, measures
from neupol_cli.trajectory.paths import Trajectory, check_movable, paths
from neupol_cli.trajectory.skeleton import skeleton

if TYPE_CHECKING:
    from ase import Atoms

TOGETHER = 50  # molecules in one go through a network


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="run folders, checkpoints or bundled names")
    parser.add_argument("data", type=Path, help="the dataset, from `neupol data`")
    parser.add_argument("--count", type=int, default=1000, help="molecules, drawn at random")
    parser.add_argument("--split", default="test", help="train, valid, test or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a model")
    options = parser.parse_args()
    molecules = drawn(
        hdf5.read(options.data),
        options.split,
        options.count,
        options.seed,
    )
    if not options.json:
        source = f"{options.data.name} ({options.split}, seed {options.seed})"
        print(f"{len(molecules)} molecules of {source}")
        print(f"\n| model | atoms of | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for name in options.models:
        totals = summary(name, molecules)
        print(json.dumps(totals) if options.json else table(totals), flush=True)


def drawn(dataset: hdf5.Dataset, split: str, count: int, seed: int) -> list[Atoms]:
    """At most ``count`` molecules of a part of the dataset, of its first split."""
    from ase import Atoms

    chosen = np.arange(dataset.size)
    if split != "all" and dataset.splits:
        chosen = next(iter(dataset.splits.values()))[split]
    order = np.random.default_rng(seed).permutation(len(chosen))[:count]
    ends = zip(dataset.offsets[chosen[order]], dataset.offsets[chosen[order] + 1], strict=True)
    return [Atoms(dataset.numbers[a:b], dataset.positions[a:b]) for a, b in ends]


def followed(model: Model, name: str, molecules: list[Atoms]) -> Iterator[Trajectory]:
    """The paths of all molecules' points."""
    targets = tuple(model.targets)
    for first in range(0, len(molecules), TOGETHER):
        chunk = molecules[first : first + TOGETHER]
        for atoms, points in zip(chunk, paths(model, chunk), strict=True):
            yield Trajectory("", atoms, name, targets, points, skeleton(atoms))


def summary(name: str, molecules: list[Atoms]) -> dict[str, Any]:
    """What one model does, over all atoms and by element."""
    model = registry.load(name)
    check_movable(model, name)
    molecules_rows = [measures(trajectory) for trajectory in followed(model, name, molecules)]
    groups: dict[str, list[AtomMeasures]] = defaultdict(list)
    for row in (row for rows in molecules_rows for row in rows):
        groups["all"].append(row)
        groups[row["element"]].append(row)
    means = [np.mean(outward) for outward in map(outwards, molecules_rows) if len(outward)]
    return {
        "model": name,
        "targets": list(model.targets),
        "molecules": len(molecules),
        "unit": "Angstrom",
        "outward_error": float(np.std(means, ddof=1) / len(means) ** 0.5),
        "groups": {key: statistics(groups[key]) for key in sorted(groups, key=_all_first)},
    }


def _all_first(key: str) -> tuple[bool, str]:
    return (key != "all", key)


def outwards(rows: list[AtomMeasures]) -> np.ndarray:
    """Outward components where there is an outside."""
    return np.array([row["outward"] for row in rows if row["outward"] is not None])


def statistics(rows: list[AtomMeasures]) -> dict[str, float | int]:
    """Means and shares over some atoms; nan where none of them has the quantity."""

    def having(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows if row[key] is not None], dtype=float)

    outward = having("outward")
    cosines = [
        row["outward"] / row["displacement"]
        for row in rows
        if row["outward"] is not None and row["displacement"] > STILL
    ]
    return {
        "atoms": len(rows),
        "moved": float(having("displacement").mean()),
        "largest": float(having("displacement").max()),
        "within_half_bond": float((having("of_half_bond") < 1.0).mean()),
        "outward": float(outward.mean()),
        "cosine": float(np.mean(cosines)),
        "moved_outward": float((outward > 0.0).mean()),
        "bond_angle": float(having("bond_angle").mean()),
    }


# heading -> how a group's numbers are written under it
COLUMNS = {
    "atoms": "{atoms}",
    "moved (Å)": "{moved:.4f}",
    "within half bond": "{within_half_bond:.1%}",
    "outward (Å)": "{outward:+.4f}",
    "cosine": "{cosine:+.3f}",
    "outwards": "{moved_outward:.1%}",
    "to bond (°)": "{bond_angle:.1f}",
}


def table(report: dict[str, Any]) -> str:
    """A model's rows of the table."""
    lines = []
    for key, group in report["groups"].items():
        cells = [form.format(**group) for form in COLUMNS.values()]
        if key == "all":
            cells[3] += f" ± {report['outward_error']:.4f}"
        who = (
            f"{Path(report['model']).name}: {', '.join(report['targets'])}" if key == "all" else ""
        )
        lines.append(f"| {who} | {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
