"""Structures through a DFT program into one HDF5 file, with densities or with labels alone.

Finished structures are kept beside the output until all of them are in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from neupol_cli.datasets import density, splits
from neupol_cli.datasets.solution import Engine, Killed, NotConverged, OutOfTime, Solution
from neupol_cli.errors import InputError, NeupolError
from neupol_cli.io import hdf5, said, soundness, volumetric
from neupol_cli.io.charges import multiplicity, total_charge
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.files import atomic, placed, write_json
from neupol_cli.io.volumetric.h5 import labels

SORTS = {
    NotConverged: "not converged",
    OutOfTime: "over the time limit",
    Killed: "killed",
}  # of failures; all others are refused
Tick = Callable[[str, str | None], None]


@dataclass(frozen=True)
class Choices:
    """What the user wants of the structures.

    Attributes:
        densities: whether they are stored, or labels alone.
        spin: whether up minus down is stored, too.
        references: whether energies of free atoms are made, for the energies to be learnt from.
        limit: seconds that a structure may take.
        skip: whether the others go on where one fails.
        counts, seed: of the partition.
    """

    densities: bool = True
    spin: bool = False
    references: bool = True
    limit: float = np.inf
    skip: bool = True
    counts: tuple[int, ...] | None = None
    seed: int = 0


@dataclass
class Made:
    """What became of the structures: the file's own report, and failures by their sort."""

    report: density.Report
    failures: Counter[str] = field(default_factory=Counter)


class Store:
    """Finished structures beside the output, found again by what they are.

    Each is a JSON file with its labels, written last, and an HDF5 file with its density.
    """

    def __init__(self, output: Path, method: str) -> None:
        place = placed(output)
        self.folder = place.with_name(place.name + ".molecules")
        self.method = method

    def path(self, atoms: Atoms) -> Path:
        """Where a structure is kept by this method, without the ending."""
        digest = hashlib.sha256(self.method.encode())
        arrays = [atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)]
        if atoms.pbc.any():
            arrays += [atoms.cell.array.astype(np.float64), atoms.pbc]
        for part in arrays:
            digest.update(np.ascontiguousarray(part).tobytes())
        stated = [total_charge(atoms) or 0, (multiplicity(atoms) or 1) - 1]
        digest.update(json.dumps(stated).encode())
        return self.folder / digest.hexdigest()[:24]

    def find(self, atoms: Atoms, densities: bool) -> Solution | None:
        """A structure that was finished earlier; a damaged file counts as none."""
        path = self.path(atoms)
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            volume = volumetric.h5.read(path.with_suffix(".h5")) if densities else None
            return _solution(atoms, record, volume)
        except (NeupolError, OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, solution: Solution) -> None:
        """Put a finished structure down; it is complete or not there."""
        self.folder.mkdir(exist_ok=True)
        path = self.path(solution.atoms)
        if solution.volume is not None:
            volumetric.h5.write(path.with_suffix(".h5"), [solution.volume], "DFT")
        write_json(path.with_suffix(".json"), _record(solution))

    def free_atom(self, number: int, made: Callable[[], float]) -> float:
        """Energy (eV) of a free atom: that of an earlier call, or else as it is made now."""
        path = self.path(Atoms([number])).with_suffix(".atom.json")
        try:
            return float(json.loads(path.read_text())["energy"])
        except (OSError, ValueError, KeyError, TypeError):
            energy = made()
        self.folder.mkdir(exist_ok=True)
        write_json(path, {"energy": energy})
        return energy

    def clear(self) -> None:
        """Remove what the finished output has."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _record(solution: Solution) -> dict[str, object]:
    dipole = None if solution.dipole is None else solution.dipole.tolist()
    return {
        "energy": solution.energy,
        "forces": solution.forces.tolist(),
        "dipole": dipole,
        "electrons": solution.electrons,
        "valence": solution.valence,
    }


def _solution(atoms: Atoms, record: dict, volume: volumetric.Volume | None) -> Solution:
    """A structure's record as `_record` wrote it; ValueError, KeyError, TypeError if it is not."""
    dipole = None if record["dipole"] is None else np.array(record["dipole"], float)
    forces = np.array(record["forces"], float).reshape(len(atoms), 3)
    valence = {int(z): float(n) for z, n in record["valence"].items()}
    electrons = float(record["electrons"])
    return Solution(atoms, float(record["energy"]), forces, dipole, electrons, valence, volume)


class Job:
    """Makes structures one after the other, or finds them made."""

    def __init__(self, engine: Engine, store: Store, choices: Choices, tick: Tick) -> None:
        self.engine, self.store, self.choices, self.tick = engine, store, choices, tick
        self.valence: dict[int, float] = {}
        self.failures: Counter[str] = Counter()
        self.failed: list[str] = []

    def run(
        self, frames: Iterable[tuple[str, Atoms]], add: Callable[[str, Solution], None]
    ) -> None:
        """Hands every structure to ``add``.

        Raises:
            InputError, OutOfTime: of the first that fails, unless the others go on.
        """
        for label, atoms in frames:
            trouble = None
            try:
                solution = self._found_or_made(atoms, label)
                add(label, solution)
                self.valence |= solution.valence
            except (InputError, OutOfTime) as error:
                if not self.choices.skip:
                    raise
                trouble = self._failed(label, error)
            self.tick(label, trouble)

    def _failed(self, label: str, error: NeupolError) -> str:
        text = str(error)
        trouble = text if text.startswith(label) else f"{label}: {text}"
        self.failures[SORTS.get(type(error), "refused")] += 1
        self.failed.append(trouble)
        return trouble

    def _found_or_made(self, atoms: Atoms, label: str) -> Solution:
        solution = self.store.find(atoms, self.choices.densities)
        if solution is None:
            until = time.monotonic() + self.choices.limit
            solution = self.engine.solve(atoms, label, self.choices.densities, until)
            self.store.keep(solution)
        return solution

    def free_atoms(self, odd: list[str]) -> dict[int, float]:
        """Energies (eV) of the elements' free atoms; ``odd`` hears of those that are not found."""
        energies = {}
        for number in sorted(self.valence) if self.choices.references else ():
            until = time.monotonic() + self.choices.limit
            try:
                made = partial(self.engine.free_atom, number, until)
                energies[number] = self.store.free_atom(number, made)
            except (InputError, OutOfTime) as error:
                odd.append(f"no reference energy of {chemical_symbols[number]}: {error}")
        return energies


def collect(
    frames: Iterable[tuple[str, Atoms]],
    output: Path,
    engine: Engine,
    choices: Choices = Choices(),
    tick: Tick = lambda label, trouble: None,
) -> Made:
    """Write the file of all structures; those finished by an earlier call are not remade.

    Energies, forces and (of molecules) dipoles are labels of the file, energies of free atoms its
    references. The finished structures stay in ``OUTPUT.molecules`` until all are in the output.

    Raises:
        InputError: no structure could be made, or one and the others do not go on.
        OutOfTime: one took too long and the others do not go on.
    """
    store = Store(output, json.dumps(dict(engine.method), sort_keys=True))
    job = Job(engine, store, choices, tick)
    write = _densities if choices.densities else _labels
    report = write(frames, output, job)
    report.failed += job.failed
    if not job.failed:
        store.clear()
    return Made(report, job.failures)


def _densities(frames: Iterable[tuple[str, Atoms]], output: Path, job: Job) -> density.Report:
    """A density file, a structure's grid in memory at a time."""
    with DensityWriter(output, source=job.engine.source, spin=job.choices.spin) as writer:
        collector = density.Collector(writer)

        def add(label: str, solution: Solution) -> None:
            assert solution.volume is not None  # it was asked for
            told = {"electrons": solution.electrons, **solution.labels}
            volume = replace(solution.volume, atoms=_with_info(solution), notes=told)
            collector.add(label, volume, identity=collector.report.read)

        job.run(frames, add)
        _refuse_nothing(output, collector.report.read, job)
        references = {"energy": job.free_atoms(collector.report.odd)}
        return collector.finish(job.choices.counts, job.choices.seed, job.valence, references)


def _with_info(solution: Solution) -> Atoms:
    """The atoms of a solution's density, with what the structure's file says."""
    assert solution.volume is not None
    atoms = solution.volume.atoms.copy()
    atoms.info |= solution.atoms.info
    return atoms


def _labels(frames: Iterable[tuple[str, Atoms]], output: Path, job: Job) -> density.Report:
    """A file of labelled structures, as `neupol data xyz` makes them."""
    done: list[Solution] = []

    def add(label: str, solution: Solution) -> None:
        soundness.check(solution.atoms, label)
        done.append(replace(solution, atoms=said.named(label, solution.atoms)))

    with atomic(output) as unfinished:
        job.run(frames, add)
        _refuse_nothing(output, len(done), job)
        report = density.Report(read=len(done), valence=job.valence)
        references = {"energy": job.free_atoms(report.odd)}
        counts = job.choices.counts or density.default_split(len(done))
        parts = splits.shuffled(len(done), counts, job.choices.seed)
        dataset = hdf5.from_atoms(
            [solution.atoms for solution in done],
            "structures",
            job.engine.source,
            targets=labels([solution.labels for solution in done]),
            splits={"default": parts},
        )
        hdf5.save(unfinished, replace(dataset, references=references))
    report.split = {name: len(indices) for name, indices in parts.items()}
    return report


def _refuse_nothing(output: Path, made: int, job: Job) -> None:
    if not made:
        raise InputError(f"{output}: none could be made: {told(job.failures)}")


def told(failures: Counter[str]) -> str:
    """Failures counted: 2 not converged, 1 killed."""
    return ", ".join(f"{count} {sort}" for sort, count in failures.most_common())
