"""What is in a dataset, as plain numbers for a table or for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from ase.data import chemical_symbols

from neupol_cli.io.hdf5 import Dataset, Target, length_unit
from neupol_cli.text import printable

if TYPE_CHECKING:
    from rich.table import Table


class Range(TypedDict):
    """Of some numbers."""

    min: float
    mean: float
    max: float


class TargetSummary(Range):
    """Of a target's values."""

    unit: str
    per: str
    std: float


class Reference(TypedDict):
    """Values of free atoms, by symbol."""

    unit: str
    atoms: dict[str, float]


class Grids(TypedDict):
    """Of the densities in a file."""

    unit: str
    spin: bool
    points: int
    points_per_structure: Range
    step_Angstrom: Range


class Summary(TypedDict):
    """What `neupol data info --json` prints; ``density`` where there are some."""

    kind: str
    source: str
    structures: int
    atoms: int
    atoms_per_structure: Range
    elements: dict[str, int]
    periodic: int
    position_unit: str
    targets: dict[str, TargetSummary]
    references: dict[str, Reference]
    splits: dict[str, dict[str, int]]
    info: list[str]
    fingerprint: str
    density: NotRequired[Grids]


def summary(dataset: Dataset) -> Summary:
    """Kind, source, counts, elements, targets with unit and range, references, splits, and names
    of what is known of structures besides."""
    contents: Summary = {
        "kind": dataset.kind,
        "source": dataset.source,
        "structures": dataset.size,
        "atoms": len(dataset.numbers),
        "atoms_per_structure": _range(dataset.counts),
        "elements": {} if dataset.kind == "nbody" else _elements(dataset),
        "periodic": 0 if dataset.pbc is None else int(dataset.pbc.any(axis=1).sum()),
        "position_unit": length_unit(dataset.kind),
        "targets": {name: _target(target) for name, target in dataset.targets.items()},
        "references": {name: _reference(dataset, name) for name in dataset.references},
        "splits": {
            name: {part: len(split[part]) for part in ("train", "valid", "test") if part in split}
            for name, split in dataset.splits.items()
        },
        "info": list(dict.fromkeys(name for info in dataset.info for name in info)),
        "fingerprint": dataset.fingerprint,
    }
    if dataset.density is not None:
        points = dataset.density.shape.prod(axis=1)
        steps = np.linalg.norm(dataset.density.step, axis=2)
        contents["density"] = {
            "unit": "e/Angstrom^3",
            "spin": dataset.density.spin,
            "points": int(points.sum()),
            "points_per_structure": _range(points),
            "step_Angstrom": _range(steps),
        }
    return contents


def _range(values: np.ndarray) -> Range:
    return {
        "min": values.min().item(),
        "mean": values.mean().item(),
        "max": values.max().item(),
    }


def _elements(dataset: Dataset) -> dict[str, int]:
    numbers, counts = np.unique(dataset.numbers, return_counts=True)
    pairs = zip(numbers, counts, strict=True)
    return {chemical_symbols[number]: int(count) for number, count in pairs}


def _target(target: Target) -> TargetSummary:
    spread = target.values.std().item()
    return {"unit": target.unit, "per": target.per, **_range(target.values), "std": spread}


def _reference(dataset: Dataset, name: str) -> Reference:
    energies = dataset.references[name]
    atoms = {chemical_symbols[number]: energy for number, energy in energies.items()}
    return {"unit": dataset.targets[name].unit, "atoms": atoms}


def tables(title: str, contents: Summary) -> Iterator[Table]:
    """The summary as rich tables: the file, its targets, its reference energies."""
    yield _facts(title, contents)
    if contents["targets"]:
        yield _targets(contents["targets"])
    if contents["references"]:
        yield _references(contents["references"])


def _facts(title: str, contents: Summary) -> Table:
    from rich.table import Table

    per = contents["atoms_per_structure"]
    elements = ", ".join(f"{symbol} {count:,}" for symbol, count in contents["elements"].items())
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("kind", contents["kind"])
    table.add_row("source", contents["source"])
    table.add_row("structures", f"{contents['structures']:,} ({contents['periodic']:,} periodic)")
    table.add_row("atoms", f"{contents['atoms']:,}, {per['min']} to {per['max']} a structure")
    table.add_row("elements", elements)
    for name, split in contents["splits"].items():
        sizes = ", ".join(f"{part} {count:,}" for part, count in split.items())
        table.add_row(f"split {name}", sizes)
    if "density" in contents:
        grid = contents["density"]
        spin = "total and spin" if grid["spin"] else "total"
        table.add_row("density", f"{grid['points']:,} points, {spin}, {grid['unit']}")
    if contents["info"]:
        table.add_row("info", printable(", ".join(contents["info"])))
    table.add_row("fingerprint", contents["fingerprint"][:16])
    return table


def _targets(targets: dict[str, TargetSummary]) -> Table:
    from rich.table import Table

    table = Table("target", "unit", "per", title="targets", title_justify="left")
    for heading in ("mean", "std", "min", "max"):
        table.add_column(heading, justify="right")
    for name, target in targets.items():
        numbers = [target["mean"], target["std"], target["min"], target["max"]]
        table.add_row(name, target["unit"], target["per"], *(f"{number:.8g}" for number in numbers))
    return table


def _references(references: dict[str, Reference]) -> Table:
    from rich.table import Table

    symbols = list(next(iter(references.values()))["atoms"])
    table = Table("free atoms", "unit", title="reference energies", title_justify="left")
    for symbol in symbols:
        table.add_column(symbol, justify="right")
    for name, reference in references.items():
        numbers = (f"{reference['atoms'].get(symbol, float('nan')):.8g}" for symbol in symbols)
        table.add_row(name, reference["unit"], *numbers)
    return table
