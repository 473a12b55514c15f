"""Labelled structures in any format of ASE, above all extended xyz, into one dataset.

Labels are looked for in the comment line, in the columns, and in what ASE keeps as results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.datasets import splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import structures, units
from neupol_cli.io.hdf5 import Dataset, Target, from_atoms
from neupol_cli.progress import Tick
from neupol_cli.text import printable

GEOMETRY = ("numbers", "positions")
UNITS = ("eV", "eV/Angstrom")  # of energies and of forces
ATOMIC = ("forces", "charges", "magmoms", "energies")  # results of ASE that have a row an atom


def read(
    sources: Sequence[str | Path],
    labels: dict[str, tuple[str, str]],
    units_of: tuple[str, str] = UNITS,
    test: Sequence[str | Path] = (),
    counts: tuple[int, ...] | None = None,
    seed: int = 0,
    on_error: str = "fail",
    tick: Tick = lambda done: None,
) -> Dataset:
    """A dataset of all frames with their labels: target -> (key in the file, unit).

    ``energy`` and ``forces`` are taken where the first frame has them, in ``units_of``, if
    ``labels`` does not say where else they are. Values are stored in neupol's unit of the same
    dimension (kcal/mol become eV). The split is that of ``splits.with_test``.

    Raises:
        InputError: a frame without a label, naming those it has, unless ``on_error`` is ``skip``,
            and for a unit that is none of an energy or of a force.
    """
    for unit, usual in zip(units_of, UNITS, strict=True):
        units.factor(unit, usual)
    frames = list(_counted(structures.read(list(sources), on_error), tick))
    others = list(structures.read(list(test), on_error))
    if not frames:
        raise InputError(f"{sources[0]}: no structure is left")
    labels = _usual_labels(*frames[0], units_of, labels) | labels
    for name, unit, usual in zip(("energy", "forces"), units_of, UNITS, strict=True):
        if unit != usual and name not in labels:
            raise InputError(f"{frames[0][0]}: has no label '{name}' that could be in {unit}")
    keys = [key for key, _ in labels.values()]
    refusal = partial(_refusal, keys)
    frames, others = (
        list(structures.accepted(group, refusal, on_error)) for group in (frames, others)
    )
    if not frames:
        raise InputError(f"{sources[0]}: no structure with all of its labels is left")
    own = len(frames)
    frames += others
    targets = {name: _target(frames, key, unit) for name, (key, unit) in labels.items()}
    return from_atoms(
        [atoms for _, atoms in frames],
        "structures",
        printable(", ".join(Path(source).name for source in (*sources, *test))),
        targets=targets,
        splits={"default": splits.with_test(own, len(frames), counts, seed)},
    )


def _counted(frames: Iterator[tuple[str, Atoms]], tick: Tick) -> Iterator[tuple[str, Atoms]]:
    for index, frame in enumerate(frames):
        tick(index + 1)
        yield frame


def _usual_labels(
    label: str, atoms: Atoms, units_of: tuple[str, str], named: dict[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Energy and forces where they usually are; InputError if there is nothing else either."""
    there = _labels(atoms)
    if "energy" not in there and not named:
        raise InputError(
            f"{label}: has no label 'energy'; it has {_names(there)}: "
            "name yours with --energy-key, --forces-key or --target KEY=UNIT"
        )
    pairs = zip(("energy", "forces"), units_of, strict=True)
    return {name: (name, unit) for name, unit in pairs if name in there}


def _refusal(keys: Sequence[str], label: str, atoms: Atoms) -> InputError | None:
    """Why a frame is of no use: a label that is not there, or not finite."""
    there = _labels(atoms)
    for key in keys:
        if key not in there:
            return InputError(f"{label}: has no label '{key}'; it has {_names(there)}")
        if not np.isfinite(there[key][0]).all():
            return InputError(f"{label}: the label '{key}' has values that are not finite")
    return None


def parse_label(text: str) -> tuple[str, tuple[str, str]]:
    """``"dipole=D"`` is ("dipole", ("dipole", "D")); UsageError without a unit."""
    key, equals, unit = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--target {text}: give KEY=UNIT, such as dipole=D")
    return key, (key, units.canonical_name(unit))


def _labels(atoms: Atoms) -> dict[str, tuple[np.ndarray, str]]:
    """Everything numeric that is attached to a structure: name -> (values, structure or atom)."""
    labels = {}
    results = {} if atoms.calc is None else atoms.calc.results
    for name, value in (*results.items(), *atoms.info.items()):
        values = _numeric(value)
        if values is not None:
            labels[name] = (values, "atom" if name in ATOMIC else "structure")
    for name, value in atoms.arrays.items():
        values = _numeric(value)
        if name not in GEOMETRY and values is not None:
            labels[name] = (values, "atom")
    return labels


def _numeric(value: object) -> np.ndarray | None:
    values = np.asarray(value)
    return values.astype(np.float64) if values.dtype.kind in "iuf" else None


def _target(frames: Sequence[tuple[str, Atoms]], key: str, unit: str) -> Target:
    """One label of all frames as one array, in neupol's unit."""
    rows = []
    per = "structure"
    for _, atoms in frames:
        values, per = _labels(atoms)[key]
        rows.append(values if per == "atom" else values[None])
    if len({row.shape[1:] for row in rows}) > 1:
        raise InputError(f"{frames[0][0]}: the label '{key}' changes its shape between structures")
    inside = units.canonical_unit(unit)
    return Target(units.convert(np.concatenate(rows), unit, inside), inside, per)


def _names(labels: dict[str, tuple[np.ndarray, str]]) -> str:
    return ", ".join(sorted(labels)) or "none"
