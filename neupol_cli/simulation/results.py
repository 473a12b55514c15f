"""What a structure that a model moved has at one moment, and how it is written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from neupol_cli import __version__, provenance
from neupol_cli.errors import UsageError
from neupol_cli.io import structures, units
from neupol_cli.io.files import atomic, checked_target
from neupol_cli.io.hdf5 import Target
from neupol_cli.models.property import UNCERTAINTY
from neupol_cli.targets import TARGETS

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.simulation.potential import Potential

Results = Mapping[str, Target]
ENDINGS = (".extxyz", ".xyz")
SUFFIXES = {units.suffix(unit) for unit in (*units.UNITS, *(t.unit for t in TARGETS.values()))}
# What relax, md and vib say of a frame besides.
OURS = (
    "step", "time_fs", "optimizer", "steps", "converged", "mode", "wavenumber_per_cm",
    "intensity_km_per_mol", "displacement",
)  # fmt: skip


def results_of(atoms: Atoms, stress: bool = False) -> Results:
    """Energy and forces of a structure with a calculator, those on held atoms as well.

    Args:
        atoms: the structure.
        stress: whether its stress is one of them.
    """
    results = {
        "energy": Target(np.asarray(atoms.get_potential_energy()), "eV"),
        "forces": Target(atoms.get_forces(apply_constraint=False), "eV/Angstrom", "atom"),
    }
    if stress:
        tensor = atoms.get_stress(voigt=False, apply_constraint=False)
        results["stress"] = Target(tensor, "eV/Angstrom^3")
    return results


def largest_force(atoms: Atoms) -> float:
    """On an atom that may move, eV/Angstrom."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def marked(atoms: Atoms, potential: Potential, info: Mapping[str, object]) -> Atoms:
    """A copy that says, in a file, what moved it and how far that came, and no longer what an
    earlier command found, where its atoms were then."""
    copy = atoms.copy()
    known = {*TARGETS, *potential.model.targets}
    for entries in (copy.info, copy.arrays):
        for key in [key for key in entries if key in OURS or _is_result(key, known)]:
            del entries[key]
    copy.info |= {"model": potential.name, "neupol": __version__, **info}
    return copy


def _is_result(key: str, known: Collection[str]) -> bool:
    """Whether it is called as `structures.annotated` calls a target in any unit."""
    stems = (key.removesuffix(f"_{unit}") for unit in SUFFIXES)
    return any(stem != key and stem.removesuffix(UNCERTAINTY) in known for stem in stems)


def checked_output(output: Path | None) -> None:
    """Refuses a name that is none for a file of structures.

    Raises:
        UsageError: another ending, or no place to write to.
    """
    if output is None:
        return
    if output.suffix not in ENDINGS:
        raise UsageError(f"{output}: the ending is one of {', '.join(ENDINGS)}")
    checked_target(output)


def write_frame(stream: TextIO, atoms: Atoms, results: Results) -> None:
    """Appends a frame of extended xyz, results with their units in their names."""
    from ase.io.extxyz import write_xyz

    write_xyz(stream, structures.annotated(atoms, results), write_results=False)


def write_frames(path: Path, frames: Sequence[tuple[Atoms, Results]]) -> None:
    """A file of extended xyz that says where it comes from; errors as ``files.atomic``."""
    for atoms, _ in frames:  # which may come from an output of ours
        atoms.info.pop(provenance.KEY, None)
    for atoms, _ in frames[:1]:
        atoms.info |= provenance.commented()
    with atomic(path) as partial, partial.open("w") as stream:
        for atoms, results in frames:
            write_frame(stream, atoms, results)


def print_json(records: Iterator[Mapping[str, object]]) -> None:
    """One object a structure and line, as they come."""
    for record in records:
        print(json.dumps(provenance.stamped(record)), flush=True)


def print_table(rows: Iterator[Mapping[str, str]]) -> None:
    """Aligned on a terminal; tab-separated, as they come, into a pipe.

    Args:
        rows: of the same columns.
    """
    if not sys.stdout.isatty():
        first = next(rows)
        print("\t".join(first), flush=True)
        for row in chain([first], rows):
            print("\t".join(row.values()), flush=True)
        return
    from rich.table import Table

    from neupol_cli.console import stdout

    # Doubts stand on stderr, a line a structure; both have no room here.
    table = [{k: v for k, v in row.items() if k not in ("doubts", "info")} for row in rows]
    grid = Table(*table[0], box=None, pad_edge=False)
    for row in table:
        grid.add_row(*row.values())
    stdout().print(grid)
