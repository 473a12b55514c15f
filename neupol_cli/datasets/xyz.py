"""Labelled structures in any format of ASE, above all extended xyz, into one dataset.

Labels are looked for in the comment line, in the columns, and in what ASE keeps as results.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.datasets import splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import said, structures, units
from neupol_cli.io.hdf5 import Dataset, Target, from_atoms
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Reading
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
    counts: splits.Wanted | None = None,
    seed: int = 0,
    on_error: str = "fail",
    missing: str = "fail",
    tick: Tick = lambda done: None,
    reading: Reading = AS_WRITTEN,
) -> Dataset:
    """A dataset of all frames with their labels: target -> (key in the file, unit).

    ``energy`` and ``forces`` are taken where any frame has them, in ``units_of``, if ``labels``
    does not say where else they are. Values are stored in neupol's unit of the same dimension
    (kcal/mol become eV). The split is that of ``splits.with_test``.

    Raises:
        InputError: a frame without a label, naming those it has, unless ``missing`` or ``on_error``
            is ``skip``, and for a unit that is none of an energy or of a force.
    """
    for unit, usual in zip(units_of, UNITS, strict=True):
        units.factor(unit, usual)
    frames = list(_counted(structures.read(list(sources), on_error, reading=reading), tick))
    others = list(structures.read(list(test), on_error, reading=reading))
    if not frames:
        raise InputError(f"{sources[0]}: no structure is left")
    labels = _usual_labels([*frames, *others], units_of, labels) | labels
    for name, unit, usual in zip(("energy", "forces"), units_of, UNITS, strict=True):
        if unit != usual and name not in labels:
            raise InputError(f"{frames[0][0]}: has no label '{name}' that could be in {unit}")
    keys = [key for key, _ in labels.values()]
    refusal = partial(_refusal, keys, _shares([*frames, *others], keys))
    leave_out = "skip" if "skip" in (missing, on_error) else "fail"
    frames, others = (
        list(structures.accepted(group, refusal, leave_out)) for group in (frames, others)
    )
    if not frames:
        raise InputError(f"{sources[0]}: no structure with all of its labels is left")
    own = len(frames)
    frames += others
    targets = {name: _target(frames, key, unit) for name, (key, unit) in labels.items()}
    return from_atoms(
        [_unlabelled(said.named(*frame), keys) for frame in frames],
        "structures",
        printable(", ".join(Path(source).name for source in (*sources, *test))),
        targets=targets,
        splits={"default": splits.with_test(own, len(frames), counts, seed)},
    )


def _unlabelled(atoms: Atoms, keys: Sequence[str]) -> Atoms:
    """The same without what is a label now, in the info that stays."""
    for key in keys:
        atoms.info.pop(key, None)
    return atoms


def _counted(frames: Iterator[tuple[str, Atoms]], tick: Tick) -> Iterator[tuple[str, Atoms]]:
    for index, frame in enumerate(frames):
        tick(index + 1)
        yield frame


def _usual_labels(
    frames: Sequence[tuple[str, Atoms]],
    units_of: tuple[str, str],
    named: dict[str, tuple[str, str]],
) -> dict[str, tuple[str, str]]:
    """Energy and forces where they usually are; InputError if there is nothing else either."""
    there: set[str] = set()
    for _, atoms in frames:
        there |= _labels(atoms).keys()
    if "energy" not in there and not named:
        raise InputError(
            f"{frames[0][0]}: has no label 'energy'; it has {_names(there)}: "
            f"name yours with --energy-key, --forces-key or --target KEY=UNIT"
            f"{_close('energy', there)}"
        )
    if "forces" not in there and "forces" not in named and _similar("forces", there):
        print(f"neupol: no label 'forces' is there{_close('forces', there)}", file=sys.stderr)
    pairs = zip(("energy", "forces"), units_of, strict=True)
    return {name: (name, unit) for name, unit in pairs if name in there}


def _similar(name: str, there: Iterable[str]) -> list[str]:
    """Labels that may be the one that is missed: REF_energy, Energy, force."""
    stem = name.removesuffix("s")
    near = get_close_matches(name, there, cutoff=0.75)
    return sorted({*near, *(label for label in there if stem in label.lower())})


def _close(name: str, there: Iterable[str]) -> str:
    similar = _similar(name, there)
    option = {"energy": "--energy-key ", "forces": "--forces-key "}.get(name, "")
    return f"; did you mean {option}{' or '.join(similar[:3])}?" if similar else ""


def _shares(frames: Sequence[tuple[str, Atoms]], keys: Sequence[str]) -> dict[str, str]:
    """For messages: how many frames have each label, where any has."""
    counts = Counter(key for _, atoms in frames for key in _labels(atoms) if key in keys)
    some = "{} of {} structures have it; --missing skip leaves out the others"
    return {key: f" ({some.format(counts[key], len(frames))})" * (counts[key] > 0) for key in keys}


def _refusal(
    keys: Sequence[str], shares: dict[str, str], label: str, atoms: Atoms
) -> InputError | None:
    """Why a frame is of no use: a label that is not there, or not finite."""
    there = _labels(atoms)
    for key in keys:
        if key not in there:
            return InputError(
                f"{label}: has no label '{key}'; it has {_names(there)}{shares[key]}"
                f"{_close(key, there)}"
            )
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


def _names(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "none"
