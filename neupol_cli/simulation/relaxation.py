"""A structure on its way to where no force is left, by one of ASE's optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import optimize
from ase.build import minimize_rotation_and_translation
from ase.filters import FrechetCellFilter

from neupol_cli.io import said
from neupol_cli.simulation.potential import Potential, Watch
from neupol_cli.simulation.results import Results, largest_force, marked, results_of

if TYPE_CHECKING:
    from ase import Atoms
    from ase.optimize.optimize import Optimizer

OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "bfgs": optimize.BFGS,
    "lbfgs": optimize.LBFGS,
    "fire": optimize.FIRE,
    "bfgs-linesearch": optimize.BFGSLineSearch,
    "mdmin": optimize.MDMin,
}


@dataclass(frozen=True)
class RelaxOptions:
    """What the command line says.

    Attributes:
        optimizer: one of ``OPTIMIZERS``.
        fmax: the largest force that may be left, eV/Angstrom; with a moving cell, of the stress
            times the volume an atom as well, as ASE's filters count it.
        steps: at most.
        accept: go on where the model's domain is left.
        keep: whether every step is kept, for a trajectory.
    """

    optimizer: str
    fmax: float
    steps: int
    accept: bool = False
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What came of one structure.

    Attributes:
        label: its name.
        atoms: where it ended, with its info.
        results: energy, forces, and of a moving cell stress, at the end.
        steps: that were made.
        energy_before: of the start, eV.
        fmax: the largest force that is left, eV/Angstrom.
        rmsd: how far atoms went, Angstrom: of a molecule that is free to turn, after the best
            superposition; in a cell that moved, beside the motion of the cell.
        converged: whether it is below what was asked for.
        doubts: reasons not to trust it.
        info: what the structure's file says of it.
        frames: every step and its results, where they are kept.
    """

    label: str
    atoms: Atoms
    results: Results
    steps: int
    energy_before: float
    fmax: float
    rmsd: float
    converged: bool
    doubts: tuple[str, ...]
    info: said.Info = field(default_factory=dict)
    frames: list[tuple[Atoms, Results]] = field(default_factory=list)

    @property
    def energy(self) -> float:
        """At the end, eV."""
        return float(self.results["energy"].values)

    def record(self) -> dict[str, object]:
        """As one JSON object; energies in eV, forces in eV/Angstrom, lengths in Angstrom."""
        results = {
            name: {"value": target.values.tolist(), "unit": target.unit}
            for name, target in self.results.items()
        }
        return {
            "structure": self.label,
            "formula": self.atoms.get_chemical_formula(),
            "atoms": len(self.atoms),
            "converged": self.converged,
            "steps": self.steps,
            "energy_before": self.energy_before,
            "fmax": self.fmax,
            "rmsd": self.rmsd,
            "positions": self.atoms.positions.tolist(),
            **({"cell": self.atoms.cell.tolist()} if self.atoms.pbc.any() else {}),
            **results,
            "doubts": list(self.doubts),
            **said.item(self.info),
        }

    def row(self) -> dict[str, str]:
        """As a row of a table."""
        return {
            "structure": self.label,
            "formula": self.atoms.get_chemical_formula(),
            "steps": str(self.steps),
            "energy before [eV]": f"{self.energy_before:.6f}",
            "energy [eV]": f"{self.energy:.6f}",
            "fmax [eV/Angstrom]": f"{self.fmax:.4g}",
            "RMSD [Angstrom]": f"{self.rmsd:.4f}",
            "converged": "yes" if self.converged else "no",
            "doubts": "; ".join(self.doubts),
            "info": said.text(self.info),
        }


def relax(potential: Potential, options: RelaxOptions, named: tuple[str, Atoms]) -> Relaxed:
    """Relaxes one structure, and its cell if the potential has a stress.

    Args:
        potential: the model.
        options: the command line's.
        named: what messages call it, and the structure, which is left as it is; its constraints
            count.

    Raises:
        DivergedError: an answer is not finite.
    """
    label, start = named
    atoms = start.copy()
    atoms.calc = potential.calculator()
    energy_before = atoms.get_potential_energy()
    way = _walked(potential, options, label, atoms)
    unfinished = [] if way.converged else [_unfinished(atoms, way)]
    info: dict[str, object] = {"structure": label, "optimizer": options.optimizer}
    info |= {"steps": way.steps, "converged": way.converged}
    return Relaxed(
        label=label,
        atoms=marked(atoms, potential, info),
        results=results_of(atoms, potential.stress),
        steps=way.steps,
        energy_before=energy_before,
        fmax=largest_force(atoms),
        rmsd=rmsd(start, atoms, potential.stress),
        converged=way.converged,
        doubts=(*unfinished, *potential.untaught(), *potential.doubts(label, atoms)),
        info=said.of(start),
        frames=way.frames,
    )


@dataclass
class _Way:
    """Of one structure: steps, whether it ended well, or outside of the domain."""

    steps: int = 0
    converged: bool = False
    outside: bool = False
    frames: list[tuple[Atoms, Results]] = field(default_factory=list)


def _walked(potential: Potential, options: RelaxOptions, label: str, atoms: Atoms) -> _Way:
    """Moves the atoms until they are there, or for some other reason go no further."""
    way = _Way()
    watch = Watch.begin(potential, label, atoms)
    moved = FrechetCellFilter(atoms) if potential.stress else atoms
    with OPTIMIZERS[options.optimizer](moved, logfile=None) as optimizer:
        for converged in optimizer.irun(options.fmax, options.steps):
            way.steps, way.converged = optimizer.nsteps, bool(converged)
            if options.keep:
                frame = marked(atoms, potential, {"structure": label, "step": way.steps})
                way.frames.append((frame, results_of(atoms, potential.stress)))
            way.outside = not options.accept and bool(watch.left(atoms))
            if way.outside:
                break
    return way


def _unfinished(atoms: Atoms, way: _Way) -> str:
    """The doubt that a structure deserves whose way was cut short."""
    why = ", where it left the model's domain" if way.outside else ""
    return f"not relaxed: {largest_force(atoms):.3g} eV/Angstrom left after {way.steps} steps{why}"


def rmsd(start: Atoms, end: Atoms, cell_moved: bool) -> float:
    """How far atoms are from where they were, Angstrom; see `Relaxed`."""
    before = start.copy()
    if cell_moved:
        before.set_cell(end.cell, scale_atoms=True)
    elif not start.pbc.any() and not start.constraints:
        minimize_rotation_and_translation(end, before)
    squares = np.square(end.positions - before.positions).sum(1)
    return float(np.sqrt(squares.mean()))
