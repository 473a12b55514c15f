"""Crystals by CP2K, a program of its own: valence densities, energies and forces.

Each structure is a run in a folder that goes again; `cp2k_text.py` has what CP2K reads and writes.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments

from neupol_cli import threads
from neupol_cli.datasets import cp2k_text
from neupol_cli.datasets.cp2k_text import Settings
from neupol_cli.datasets.solution import Killed, NotConverged, OutOfTime, Solution
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.charges import multiplicity, total_charge
from neupol_cli.io.volumetric import Grid, Volume, cube

PROGRAMS = ("cp2k.psmp", "cp2k.ssmp", "cp2k.popt", "cp2k.sopt", "cp2k")
SHELL = 128  # a shell's exit code of a signal, less the signal


def program() -> Path:
    """CP2K's executable, or UsageError that says how to get it."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise UsageError(
        f"CP2K is not installed (no {PROGRAMS[0]} or {PROGRAMS[-1]} on the PATH): "
        "apt install cp2k, or conda install cp2k"
    )


def data_folder(executable: Path) -> Path:
    """Where CP2K's basis sets are: CP2K_DATA_DIR, or beside the program.

    Raises:
        UsageError: they are in neither place.
    """
    share = executable.resolve().parents[1] / "share" / "cp2k"
    named = os.environ.get("CP2K_DATA_DIR")
    for folder in (*([Path(named)] if named else []), share, share / "data"):
        if (folder / cp2k_text.BASES).is_file():
            return folder
    raise UsageError(
        f"{executable.name}: its basis sets ({cp2k_text.BASES}) are not in {share}; "
        "set CP2K_DATA_DIR to their folder"
    )


class CP2K:
    """CP2K with the given settings, as `Engine` of solution.py says."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.program = program()
        self.data = data_folder(self.program)
        self.source = f"{self._version()}, {settings}"
        self.method = asdict(settings) | {"program": "cp2k"}

    def _version(self) -> str:
        done = subprocess.run(
            [self.program, "--version"], capture_output=True, text=True, check=False
        )
        first = done.stdout.strip().splitlines()[:1]
        return first[0].strip().replace("CP2K version", "CP2K") if first else "CP2K"

    @cached_property
    def valence(self) -> dict[str, int]:
        """Electrons that each element brings, by symbol."""
        bases, potentials = cp2k_text.BASES, cp2k_text.POTENTIALS
        return cp2k_text.valence_of(
            (self.data / bases).read_text(), (self.data / potentials).read_text()
        )

    def solve(self, atoms: Atoms, label: str, density: bool, until: float) -> Solution:
        """Energy and forces of one cell; its density where it is wanted."""
        self._check(atoms, label)
        text = cp2k_text.crystal_input(atoms, self.settings, self.valence, density)
        symbols = atoms.get_chemical_symbols()
        with tempfile.TemporaryDirectory(prefix="neupol-cp2k-") as name:
            folder = Path(name)
            printed = self._run(text, folder, label, until)
            volume = self._volume(folder, atoms, label) if density else None
        return Solution(
            atoms,
            cp2k_text.energy(printed, label),
            cp2k_text.forces(printed, atoms, label),
            None,
            float(sum(self.valence[symbol] for symbol in symbols)),
            {int(z): float(self.valence[chemical_symbols[z]]) for z in set(atoms.numbers)},
            volume,
        )

    def free_atom(self, number: int, until: float) -> float:
        """Energy of an atom, eV, spin-polarised, in its ground state's multiplicity."""
        spin = 1 + round(ground_state_magnetic_moments[number])
        label = f"the free atom of {chemical_symbols[number]}"
        text = cp2k_text.atom_input(number, spin, self.settings, self.valence)
        with tempfile.TemporaryDirectory(prefix="neupol-cp2k-") as name:
            return cp2k_text.energy(self._run(text, Path(name), label, until), label)

    def _check(self, atoms: Atoms, label: str) -> None:
        if not atoms.pbc.all():
            raise InputError(
                f"{label}: is not periodic in three directions; CP2K makes crystals here, "
                "molecules are for --engine pyscf"
            )
        if total_charge(atoms, label) or multiplicity(atoms, label):
            raise InputError(
                f"{label}: states a charge or a multiplicity; CP2K makes neutral crystals "
                "without spin here"
            )
        missing = sorted(set(atoms.get_chemical_symbols()) - self.valence.keys())
        if missing:
            raise InputError(f"{label}: no basis set {cp2k_text.BASIS} of {', '.join(missing)}")

    def _run(self, text: str, folder: Path, label: str, until: float) -> str:
        """CP2K's output of an input.

        Raises:
            InputError: NotConverged, Killed, or what CP2K complains of. OutOfTime.
        """
        (folder / "input").write_text(text)
        left = None if math.isinf(until) else max(0.0, until - time.monotonic())
        changes = {
            "OMP_NUM_THREADS": str(threads.available()),
            "CP2K_DATA_DIR": str(self.data),
        }
        try:
            done = subprocess.run(
                [self.program, "-i", "input"], cwd=folder, env=os.environ | changes,
                capture_output=True, text=True, errors="replace", timeout=left, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as trouble:
            raise OutOfTime(f"{label}: CP2K took longer than the time that was left") from trouble
        _refuse(done.stdout, done.returncode, label)
        return done.stdout

    def _volume(self, folder: Path, atoms: Atoms, label: str) -> Volume:
        """The density of a run, every so many of CP2K's points."""
        cubes = list(folder.glob("*.cube"))
        if len(cubes) != 1:
            raise InputError(f"{label}: CP2K wrote {len(cubes)} cubes, not one")
        values = cube.FORMAT.read(cubes[0], True).values
        return thinned(atoms, values, self.settings.spacing)


def _refuse(printed: str, code: int, label: str) -> None:
    """Whatever keeps an output from being an answer."""
    converged = cp2k_text.converged(printed)
    if converged is False:
        raise NotConverged(f"{label}: the SCF did not converge")
    if code < 0 or code > SHELL:
        raise Killed(f"{label}: CP2K was killed by signal {-code if code < 0 else code - SHELL}")
    if code or not converged:
        reason = cp2k_text.complaint(printed) or f"exit code {code}"
        raise InputError(f"{label}: CP2K: {reason[:300]}")


def thinned(atoms: Atoms, values: np.ndarray, spacing: float) -> Volume:
    """A crystal's density on every n-th point of a grid of its cell, n a divisor an axis.

    Args:
        atoms: with the cell.
        values: (n1, n2, n3) e/Angstrom^3 over all of the cell.
        spacing: largest step that may remain, Angstrom; a step that is larger already remains.
    """
    lengths = atoms.cell.lengths() / values.shape
    strides = [_stride(n, spacing / step) for n, step in zip(values.shape, lengths, strict=True)]
    kept = values[tuple(slice(None, None, stride) for stride in strides)]
    n1, n2, n3 = kept.shape
    steps = atoms.cell.array / np.array(kept.shape)[:, None]
    return Volume(atoms, Grid(np.zeros(3), steps, (n1, n2, n3)), np.ascontiguousarray(kept))


def _stride(count: int, most: float) -> int:
    """The largest divisor of a count up to a number, 1 at least."""
    return max((n for n in range(1, count + 1) if count % n == 0 and n <= most), default=1)
