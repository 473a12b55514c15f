"""A structure that moves: frames and energies to files, and a state from which it goes on.

Files only grow; the state says how long they were when it was saved. What a killed run wrote
beyond that is cut off when it goes on, and written again, the same to the byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from ase import units

from neupol_cli.errors import CheckpointError, StorageError
from neupol_cli.io import said
from neupol_cli.progress import Tick
from neupol_cli.simulation import integrators
from neupol_cli.simulation.integrators import Ensemble
from neupol_cli.simulation.potential import Potential, Watch
from neupol_cli.simulation.results import marked, results_of, write_frame
from neupol_cli.simulation.state import State

if TYPE_CHECKING:
    from ase import Atoms
    from ase.md.md import MolecularDynamics

SAVE_SECONDS = 5.0  # that a kill may cost, besides the time to start again
COLUMNS = (
    "step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "conserved_eV", "temperature_K",
    "volume_Angstrom3",
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """Of one structure, in a run's folder.

    Attributes:
        trajectory: extended xyz.
        log: a row of energies a frame, tab-separated.
        state: from which it goes on.
    """

    trajectory: Path
    log: Path
    state: Path


@dataclass(frozen=True)
class Plan:
    """How far structures move, and what is looked at on the way.

    Attributes:
        ensemble: what is held constant.
        steps: in all.
        every: steps between frames; the domain is looked at as often.
        accept: go on where the model's domain is left.
    """

    ensemble: Ensemble
    steps: int
    every: int
    accept: bool


@dataclass(frozen=True, eq=False)
class Moved:
    """What came of one structure.

    Attributes:
        label: its name.
        formula: of its atoms.
        atoms: how many.
        steps: that were made, of those that were wanted.
        wanted: steps.
        time: that these are, fs.
        log: column -> its numbers.
        trajectory: where its frames are.
        first: the doubts that it began with.
        doubts: those that came on the way.
        info: what the structure's file says of it.
    """

    label: str
    formula: str
    atoms: int
    steps: int
    wanted: int
    time: float
    log: Mapping[str, np.ndarray]
    trajectory: Path
    first: tuple[str, ...]
    doubts: tuple[str, ...]
    info: said.Info

    @property
    def drift(self) -> float | None:
        """The slope of a line through what should be conserved, meV an atom and ps."""
        values, times = self.log["conserved_eV"], self.log["time_fs"]
        if len(times) < 2 or np.isnan(values).any():
            return None
        return float(np.polyfit(times, values - values[0], 1)[0]) * 1e6 / self.atoms

    def record(self) -> dict[str, object]:
        """As one JSON object, with units in names."""
        return {
            "structure": self.label,
            "formula": self.formula,
            "atoms": self.atoms,
            "steps": self.steps,
            "complete": self.steps >= self.wanted,
            "time_fs": self.time,
            "temperature_K": float(self.log["temperature_K"].mean()),
            "total_eV": [float(self.log["total_eV"][k]) for k in (0, -1)],
            "drift_meV_per_atom_ps": self.drift,
            "frames": len(self.log["step"]),
            "trajectory": str(self.trajectory),
            "doubts": [*self.doubts, *self.first],
            **said.item(self.info),
        }

    def row(self) -> dict[str, str]:
        """As a row of a table."""
        drift = self.drift
        return {
            "structure": self.label,
            "formula": self.formula,
            "steps": str(self.steps),
            "time [fs]": f"{self.time:g}",
            "mean temperature [K]": f"{self.log['temperature_K'].mean():.1f}",
            "drift [meV/atom/ps]": "" if drift is None else f"{drift:.4g}",
            "frames": str(len(self.log["step"])),
            "trajectory": str(self.trajectory),
            "doubts": "; ".join((*self.doubts, *self.first)),
            "info": said.text(self.info),
        }


def begin(
    potential: Potential, ensemble: Ensemble, seed: int, numbered: tuple[int, tuple[str, Atoms]]
) -> State:
    """The state of a structure before its first step.

    Args:
        potential: the model.
        ensemble: what is held constant.
        seed: with the structure's number, that of its random numbers.
        numbered: its number, what messages call it, and it itself.

    Raises:
        InputError: it cannot be moved so.
        DivergedError: an answer is not finite.
    """
    index, (label, atoms) = numbered
    random = np.random.default_rng([seed, index])
    atoms.calc = potential.calculator()
    doubts = Watch.begin(potential, label, atoms).first
    integrators.set_out(label, atoms, ensemble, random)
    state = State(label, atoms, random, doubts=doubts)
    state.integrator = integrators.kept(integrators.build(atoms, ensemble, random))
    return state


def move(potential: Potential, plan: Plan, state: State, files: Files, tick: Tick) -> Moved:
    """Moves a structure until it has made all steps, or leaves the model's domain.

    Args:
        potential: the model.
        plan: how far.
        state: where it stands; is taken along.
        files: are cut to what the state knows of them, and grow.
        tick: is told the steps.

    Raises:
        DivergedError: an answer is not finite; the state of some time before is kept.
        CheckpointError: the files are shorter than the state says, or it is another ensemble's.
        StorageError: the disk is full or refuses.
    """
    atoms = state.atoms
    atoms.calc = potential.calculator()
    plan.ensemble.check(state.label, atoms)
    dynamics = integrators.build(atoms, plan.ensemble, state.random)
    integrators.restore(dynamics, state.integrator)
    dynamics.nsteps = state.step
    watch = Watch(potential, state.label, state.doubts)
    outside = False
    with _reported(files), _Record(potential, plan, state, files) as record:
        if not state.step and not state.sizes[0]:
            record.frame(dynamics)
        while dynamics.nsteps < plan.steps and not outside:
            dynamics.step()
            dynamics.nsteps += 1
            if dynamics.nsteps % plan.every == 0:
                record.frame(dynamics)
                outside = not plan.accept and bool(watch.left(atoms))
            record.save_now_and_then(dynamics)
            tick(dynamics.nsteps)
        record.save(dynamics)
    why = [f"stopped at step {state.step}, where it left the model's domain"] if outside else []
    return _moved(state, plan, files, [*why, *watch.new(atoms)])


@contextmanager
def _reported(files: Files) -> Iterator[None]:
    """Turns what the operating system says about the files that grow into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{files.trajectory}: {error.strerror}; --resume goes on when there is room"
        ) from error


class _Record:
    """The files of a structure while it moves."""

    def __init__(self, potential: Potential, plan: Plan, state: State, files: Files) -> None:
        self.potential, self.plan, self.state, self.files = potential, plan, state, files
        self._streams = ExitStack()
        self._saved = time.monotonic()

    def __enter__(self) -> _Record:
        paths = (self.files.trajectory, self.files.log)
        self.trajectory, self.log = (
            self._streams.enter_context(_cut(path, size))
            for path, size in zip(paths, self.state.sizes, strict=True)
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._streams.close()

    def frame(self, dynamics: MolecularDynamics) -> None:
        """Writes down where the structure is, and its energies."""
        row = _energies(dynamics, self.plan.ensemble)
        info = {"structure": self.state.label, "step": row["step"], "time_fs": row["time_fs"]}
        atoms, stress = self.state.atoms, self.potential.stress
        write_frame(self.trajectory, marked(atoms, self.potential, info), results_of(atoms, stress))
        if not self.log.tell():
            self.log.write("\t".join(COLUMNS) + "\n")
        self.log.write("\t".join(repr(row[name]) for name in COLUMNS) + "\n")
        for stream in (self.trajectory, self.log):
            stream.flush()

    def save_now_and_then(self, dynamics: MolecularDynamics) -> None:
        """Saves the state if that was some time ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save(dynamics)

    def save(self, dynamics: MolecularDynamics) -> None:
        """Puts the files onto the disk, and then the state that counts on them."""
        for stream in (self.trajectory, self.log):
            stream.flush()
            os.fsync(stream.fileno())
        self.state.step = dynamics.nsteps
        self.state.sizes = self.trajectory.tell(), self.log.tell()
        self.state.integrator = integrators.kept(dynamics)
        self.state.save(self.files.state)
        self._saved = time.monotonic()


def _cut(path: Path, size: int) -> TextIO:
    """A file to append to, without what is behind its first ``size`` bytes.

    Raises:
        CheckpointError: it has fewer, and a part of the way is lost.
    """
    if (path.stat().st_size if path.exists() else 0) < size:
        raise CheckpointError(f"{path}: is shorter than it was when the run's state was saved")
    stream = path.open("a")
    stream.truncate(size)
    stream.seek(size)
    return stream


def _energies(dynamics: MolecularDynamics, ensemble: Ensemble) -> dict[str, float]:
    """A row of the log; NaN is what there is not."""
    atoms = dynamics.atoms
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    conserved = integrators.conserved(dynamics)
    free = atoms.get_number_of_degrees_of_freedom()
    return {
        "step": dynamics.nsteps,
        "time_fs": dynamics.nsteps * ensemble.timestep,
        "potential_eV": potential,
        "kinetic_eV": kinetic,
        "total_eV": potential + kinetic,
        "conserved_eV": np.nan if conserved is None else float(conserved),
        "temperature_K": 2 * kinetic / (free * units.kB) if free else 0.0,
        "volume_Angstrom3": float(atoms.get_volume()) if atoms.cell.rank == 3 else np.nan,
    }


def _moved(state: State, plan: Plan, files: Files, doubts: Sequence[str]) -> Moved:
    with files.log.open() as stream:
        names = stream.readline().split()
        rows = np.loadtxt(stream, ndmin=2)
    return Moved(
        label=state.label,
        formula=state.atoms.get_chemical_formula(),
        atoms=len(state.atoms),
        steps=state.step,
        wanted=plan.steps,
        time=state.step * plan.ensemble.timestep,
        log=dict(zip(names, rows.T, strict=True)),
        trajectory=files.trajectory,
        first=state.doubts,
        doubts=tuple(doubts),
        info=said.of(state.atoms),
    )
