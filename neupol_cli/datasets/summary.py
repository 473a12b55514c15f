"""What is in a dataset, as plain numbers for a table or for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from neupol_cli.io.hdf5 import Dataset, Target, length_unit

if TYPE_CHECKING:
    from rich.table import Table


def summary(dataset: Dataset) -> dict[str, Any]:
    """Kind, source, counts, elements, targets with unit and range, references and splits."""
    found: dict[str, Any] = {
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
        "fingerprint": dataset.fingerprint,
    }
    if dataset.density is not None:
        points = dataset.density.shape.prod(axis=1)
        steps = np.linalg.norm(dataset.density.step, axis=2)
        found["density"] = {
            "unit": "e/Angstrom^3",
            "spin": dataset.density.spin,
            "points": int(points.sum()),
            "points_per_structure": _range(points),
            "step_Angstrom": _range(steps),
        }
    return found


def _range(values: np.ndarray) -> dict[str, float]:
    return {
        "min": values.min().item(),
        "mean": values.mean().item(),
        "max": values.max().item(),
    }


def _elements(dataset: Dataset) -> dict[str, int]:
    numbers, counts = np.unique(dataset.numbers, return_counts=True)
    pairs = zip(numbers, counts, strict=True)
    return {chemical_symbols[number]: int(count) for number, count in pairs}


def _target(target: Target) -> dict[str, Any]:
    spread = {"std": target.values.std().item()}
    return {"unit": target.unit, "per": target.per, **_range(target.values), **spread}


def _reference(dataset: Dataset, name: str) -> dict[str, Any]:
    energies = dataset.references[name]
    atoms = {chemical_symbols[number]: energy for number, energy in energies.items()}
    return {"unit": dataset.targets[name].unit, "atoms": atoms}


def tables(title: str, found: dict[str, Any]) -> Iterator[Table]:
    """The summary as rich tables: the file, its targets, its reference energies."""
    yield _facts(title, found)
    if found["targets"]:
        yield _targets(found["targets"])
    if found["references"]:
        yield _references(found["references"])


def _facts(title: str, found: dict[str, Any]) -> Table:
    from rich.table import Table

    per = found["atoms_per_structure"]
    elements = ", ".join(f"{symbol} {count:,}" for symbol, count in found["elements"].items())
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("kind", found["kind"])
    table.add_row("source", found["source"])
    table.add_row("structures", f"{found['structures']:,} ({found['periodic']:,} periodic)")
    table.add_row("atoms", f"{found['atoms']:,}, {per['min']} to {per['max']} a structure")
    table.add_row("elements", elements)
    for name, split in found["splits"].items():
        sizes = ", ".join(f"{part} {count:,}" for part, count in split.items())
        table.add_row(f"split {name}", sizes)
    if "density" in found:
        grid = found["density"]
        spin = "total and spin" if grid["spin"] else "total"
        table.add_row("density", f"{grid['points']:,} points, {spin}, {grid['unit']}")
    table.add_row("fingerprint", found["fingerprint"][:16])
    return table


def _targets(targets: dict[str, dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("target", "unit", "per", title="targets", title_justify="left")
    for heading in ("mean", "std", "min", "max"):
        table.add_column(heading, justify="right")
    for name, target in targets.items():
        numbers = (f"{target[key]:.8g}" for key in ("mean", "std", "min", "max"))
        table.add_row(name, target["unit"], target["per"], *numbers)
    return table


def _references(references: dict[str, dict[str, Any]]) -> Table:
    from rich.table import Table

    symbols = list(next(iter(references.values()))["atoms"])
    table = Table("free atoms", "unit", title="reference energies", title_justify="left")
    for symbol in symbols:
        table.add_column(symbol, justify="right")
    for name, reference in references.items():
        numbers = (f"{reference['atoms'].get(symbol, float('nan')):.8g}" for symbol in symbols)
        table.add_row(name, reference["unit"], *numbers)
    return table
