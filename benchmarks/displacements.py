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
    to bond           mean angle to the nearest bond (degrees)
    to plane          mean angle to the plane of the atom's flat ring (degrees), where it is in one
                      whose molecule is not flat itself: there symmetry leaves nowhere else to go

``by chance`` are the same angles of directions drawn at random, one for each of the same atoms.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli import registry
from neupol_cli.io import hdf5
from neupol_cli.models.base import Model
from neupol_cli.trajectory.measures import STILL, AtomMeasures, measures, values_of
from neupol_cli.trajectory.paths import Trajectory, check_movable, paths
from neupol_cli.trajectory.skeleton import FLAT, skeleton

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
    followed_all = list(followed(model, name, molecules))
    molecules_rows = [of_molecule(trajectory) for trajectory in followed_all]
    generator = np.random.default_rng(0)
    chances = by_element(of_molecule(turned(one, generator)) for one in followed_all)
    groups = by_element(molecules_rows)
    means = [np.mean(outward) for outward in map(outwards, molecules_rows) if len(outward)]
    return {
        "model": name,
        "targets": list(model.targets),
        "molecules": len(molecules),
        "unit": "Angstrom",
        "outward_error": float(np.std(means, ddof=1) / len(means) ** 0.5),
        "groups": {
            key: statistics(groups[key]) | by_chance(chances[key])
            for key in sorted(groups, key=_all_first)
        },
    }


def of_molecule(trajectory: Trajectory) -> list[AtomMeasures]:
    """Its atoms' measures; none against the planes of rings where all of it is flat."""
    rows = measures(trajectory)
    spread = np.linalg.svd(trajectory.atoms.positions - trajectory.atoms.positions.mean(0))[1]
    flat = len(spread) < 3 or spread[2] < FLAT * len(rows) ** 0.5
    return [{**row, "plane_angle": None} for row in rows] if flat else rows


def turned(trajectory: Trajectory, generator: np.random.Generator) -> Trajectory:
    """The same as if points had gone as far in directions drawn at random."""
    start, end = trajectory.points[0], trajectory.points[-1]
    directions = generator.normal(size=start.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    moves = np.linalg.norm(end - start, axis=1, keepdims=True) * directions
    return replace(trajectory, points=np.stack((start, start + moves)))


def by_element(molecules: Iterable[list[AtomMeasures]]) -> dict[str, list[AtomMeasures]]:
    """All atoms, and those of each element."""
    groups: dict[str, list[AtomMeasures]] = defaultdict(list)
    for row in (row for rows in molecules for row in rows):
        groups["all"].append(row)
        groups[row["element"]].append(row)
    return groups


def _all_first(key: str) -> tuple[bool, str]:
    return (key != "all", key)


def outwards(rows: list[AtomMeasures]) -> np.ndarray:
    """Outward components where there is an outside."""
    return np.array([row["outward"] for row in rows if row["outward"] is not None])


def statistics(rows: list[AtomMeasures]) -> dict[str, float | int]:
    """Means and shares over some atoms; nan where none of them has the quantity."""
    outward = values_of(rows, "outward")
    cosines = [
        row["outward"] / row["displacement"]
        for row in rows
        if row["outward"] is not None and row["displacement"] > STILL
    ]
    return {
        "atoms": len(rows),
        "moved": mean_of(rows, "displacement"),
        "largest": float(values_of(rows, "displacement").max()),
        "within_half_bond": float((values_of(rows, "of_half_bond") < 1.0).mean()),
        "outward": float(outward.mean()),
        "cosine": float(np.mean(cosines)),
        "moved_outward": float((outward > 0.0).mean()),
        "bond_angle": mean_of(rows, "bond_angle"),
        "ring_atoms": len(values_of(rows, "plane_angle")),
        "plane_angle": mean_of(rows, "plane_angle"),
    }


def by_chance(rows: list[AtomMeasures]) -> dict[str, float]:
    """The angles of random directions."""
    return {f"{key}_by_chance": mean_of(rows, key) for key in ("bond_angle", "plane_angle")}


def mean_of(rows: list[AtomMeasures], key: str) -> float:
    """Over the atoms that have it; nan where none has."""
    values = values_of(rows, key)
    return float(values.mean()) if len(values) else float("nan")


# heading -> how a group's numbers are written under it
COLUMNS = {
    "atoms": "{atoms}",
    "moved (Å)": "{moved:.4f}",
    "within half bond": "{within_half_bond:.1%}",
    "outward (Å)": "{outward:+.4f}",
    "cosine": "{cosine:+.3f}",
    "outwards": "{moved_outward:.1%}",
    "to bond, by chance (°)": "{bond_angle:.1f}, {bond_angle_by_chance:.1f}",
    "ring atoms": "{ring_atoms}",
    "to plane, by chance (°)": "{plane_angle:.1f}, {plane_angle_by_chance:.1f}",
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
