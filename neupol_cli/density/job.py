"""What ``neupol density`` does with one structure after another, and what it says of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from neupol_cli.density import measures
from neupol_cli.density.on_grid import (
    GridChoice,
    Predicted,
    check_size,
    predict,
    sampler,
)
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, volumetric
from neupol_cli.io.volumetric import Grid, Volume, chgcar
from neupol_cli.progress import counted

if TYPE_CHECKING:
    from ase import Atoms

ITEMSIZE = {"float32": 4, "float64": 8}
ROOM = 1.9  # Angstrom around the atoms of a molecule
SAME = 0.01  # Angstrom: atoms this close are in the same place


def frames(source: str, on_error: str) -> Iterator[tuple[str, Atoms]]:
    """(label, checked structure) of each structure in a file, or on stdin (``-``).

    Of a cube or CHGCAR only the atoms count here, of a dataset every structure, with densities or
    without; ``GridChoice`` reads the grid of a file that is to give it.
    """
    from neupol_cli.io import structures

    if source != "-" and _is_density_text(source):
        atoms = volumetric.read(source).atoms
        structures.check(atoms, source)
        yield source, atoms
    else:
        yield from structures.read([source], on_error)


def _is_density_text(source: str) -> bool:
    """Whether a name is that of a density in a text format, which `structures` does not read."""
    try:
        return volumetric.format_of(source) in volumetric.READERS
    except UsageError:
        return False


@dataclass
class Job:
    """The options of one call; the model is loaded when the first structure has passed its checks.

    ``run`` makes, compares, draws and writes one structure's density and returns its report.
    """

    choice: GridChoice
    memory: int
    output: str
    normalize: bool
    electrons: float | None
    reference: Path | None
    difference: str | None
    plot: str | None
    dtype: str
    load: Callable[[], Any]
    model: Any = None
    group: ProcessGroup = ALONE
    _stack: ExitStack = field(default_factory=ExitStack)
    _writer: hdf5.DensityWriter | None = None
    _electrons_of: list[float] = field(default_factory=list)

    def check_outputs(self, count: int) -> None:
        """UsageError, before any work, for names that cannot be written or hold just one."""
        kind = volumetric.format_of(self.output)
        for name in (self.output, self.difference, self.plot):
            if (
                count > 1
                and name
                and "{}" not in name
                and not (name == self.output and kind == "hdf5")
            ):
                raise UsageError(
                    f"{name}: for {count} structures the name needs {{}} for their number"
                )
            parent = Path(name or ".").parent
            if not parent.is_dir():
                raise UsageError(f"{name}: the folder {parent} does not exist; make it first")
        if self.difference:
            volumetric.format_of(self.difference)
            if Path(self.difference).absolute() == Path(self.output).absolute():
                raise UsageError("--difference: is the file that -o names; give another one")
        if self.plot:
            from neupol_cli.figures import check_name

            check_name(self.plot)
        if self.dtype not in ITEMSIZE:
            raise UsageError(f"--dtype is one of {', '.join(ITEMSIZE)}, not '{self.dtype}'")

    def run(self, index: int, label: str, atoms: Atoms) -> dict[str, Any]:
        """One structure: its report, with files written. Errors as the readers', and InputError."""
        start = time.perf_counter()
        grid = self.choice.grid(atoms)
        left = check_size(grid, self.memory, ITEMSIZE[self.dtype])
        reference = None if self.reference is None else volumetric.read(self.reference)
        if reference is not None:
            self._check_reference(reference, grid, atoms)
        whole = fills_cell(grid, atoms)
        if self.normalize and not whole:
            raise UsageError(
                "--normalize: the grid holds a part of the electrons only: it has to fill the "
                f"cell, or to leave {ROOM} Angstrom around a molecule (--margin)"
            )
        self.model = self.load() if self.model is None else self.model
        self.model.check([atoms], [label])
        charges = measures.charges_of(atoms, measures.valence_of(self.model.header))
        expected = measures.expected_electrons(charges, self.electrons) if whole else None
        with counted("probes", grid.size) as tick:
            made = predict(self.model, atoms, grid, left, tick, self.group)
        report = {"structure": label, "formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
        report |= _grid_report(made)
        report |= self._electrons(made.volume, charges, expected)
        factor = 1.0
        if self.normalize:
            factor = measures.normalization(made.volume, expected)
            measures.scale(made.volume.values, factor)
            report |= {"electrons": made.volume.electrons, "factor": factor}
        if reference is not None:
            report |= self._compare(made.volume, reference, index)
        report |= self._write(made.volume, index, label)
        if self.plot:
            report["plot"] = _numbered(self.plot, index)
            self._draw(report["plot"], made, factor, reference)
        report["seconds"] = time.perf_counter() - start
        return report

    def _check_reference(self, reference: Volume, grid: Grid, atoms: Atoms) -> None:
        """Same grid, same atoms, same places; else the comparison would mean nothing."""
        if not grid.same_as(reference.grid):
            raise UsageError(
                "--reference: compares on the reference's grid; leave out the other one"
            )
        if not np.array_equal(atoms.numbers, reference.atoms.numbers):
            raise InputError(f"{self.reference}: holds other atoms than the structure")
        apart = float(np.abs(atoms.positions - reference.atoms.positions).max())
        if apart > SAME:
            raise InputError(
                f"{self.reference}: its atoms are up to {apart:.2f} Angstrom away from the "
                "structure's; name the reference itself as the structure"
            )

    @property
    def _meta(self) -> dict[str, Any]:
        return dict(self.model.header)

    def _electrons(
        self, volume: Volume, charges: np.ndarray | None, expected: float | None
    ) -> dict[str, Any]:
        found = volume.electrons
        error, moment_error = measures.grid_errors(volume, charges)
        report: dict[str, Any] = {"electrons_sum": found, "electrons_grid_error": _number(error)}
        report["electrons_expected"] = expected
        if volume.spin is not None:
            net = float(volume.spin.sum(dtype=np.float64)) * volume.grid.element
            report["spin_sum"] = net
        if charges is None or expected is None or volume.atoms.pbc.any() or not found > 0:
            return report
        moment = measures.dipole(volume, charges, expected / found)
        report["dipole_D"] = [float(x) for x in moment]
        report["dipole_norm_D"] = float(np.linalg.norm(moment))
        report["dipole_grid_error_D"] = _number(moment_error)
        return report

    def _compare(self, volume: Volume, reference: Volume, index: int) -> dict[str, Any]:
        report = {"eps_mae_percent": measures.mean_absolute_error(volume, reference)}
        if self.difference:
            apart = volume.values - reference.values
            name = _numbered(self.difference, index)
            difference = Volume(volume.atoms, volume.grid, apart)
            volumetric.write(name, difference, "predicted minus reference electron density")
        return report

    def _write(self, volume: Volume, index: int, label: str) -> dict[str, Any]:
        name = _numbered(self.output, index)
        if volumetric.format_of(name) == "hdf5" and name == self.output:
            self._append(volume)
        else:
            volumetric.write(name, volume, f"{Path(label).name} electron density by neupol")
        if volumetric.format_of(name) == "chgcar":
            counts = " ".join(str(n) for n in volume.grid.shape)
            print(f"{name}: NGXF NGYF NGZF = {counts}; {chgcar.START_VASP}", file=sys.stderr)
        return {"output": name}

    def _draw(self, name: str, made: Predicted, factor: float, reference: Volume | None) -> None:
        """Two slices of the density; one more of the spin density, and of the difference."""
        from neupol_cli.density import plot as plots

        volume, atoms = made.volume, made.volume.atoms
        across = plots.planes(atoms)
        sample = sampler(self.model, made.features, factor)
        panels = [plots.Panel(plane, plane.name, sample(plane.points())) for plane in across]
        signed = {}
        if volume.spin is not None:
            signed["spin density, up minus down"] = volume.spin
        if reference is not None:
            signed["predicted minus reference"] = volume.values - reference.values
        for title, values in signed.items():
            shown = plots.interpolated(replace(volume, values=values, spin=None))
            panels.append(plots.Panel(across[0], title, shown(across[0].points()), signed=True))
        title = f"{atoms.get_chemical_formula()}: electron density"
        plots.draw(name, atoms, panels, title)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        if self._writer is not None and raised[0] is None:
            electrons = hdf5.Target(np.array(self._electrons_of), "e")
            self._writer.label({"electrons": electrons})
        return self._stack.__exit__(*raised)

    def _append(self, volume: Volume) -> None:
        """Add to the one HDF5 file of all structures; it appears when the job ends well."""
        if self._writer is None:
            writer = hdf5.DensityWriter(
                self.output, "electron densities by neupol", volume.spin is not None
            )
            self._writer = self._stack.enter_context(writer)
        values = volumetric.h5.channels(volume, self._writer.spin)
        self._writer.add(volume.atoms, values, volume.grid.origin, volume.grid.step)
        self._electrons_of.append(volume.electrons)


def fills_cell(grid: Grid, atoms: Atoms) -> bool:
    """Whether the sum over the grid is that of all electrons: in a crystal, of one cell. A
    molecule's grid must leave room around its atoms: within ROOM of them are 99.7 % of the
    valence electrons of water, within 1 Angstrom 94 %."""
    if atoms.pbc.all():
        cell = abs(float(np.linalg.det(atoms.cell.array)))
        return abs(grid.size * grid.element - cell) < 1e-4 * cell
    inverse = np.linalg.inv(grid.box)
    fractions = (atoms.positions - grid.origin) @ inverse  # (A, 3)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)  # (3,) Angstrom from face to face
    room = np.minimum(fractions, 1.0 - fractions) * heights
    return bool((room[:, ~atoms.pbc] > ROOM).all())


def _numbered(name: str, index: int) -> str:
    return name.replace("{}", str(index))


def _number(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and np.isfinite(value) else None


def _grid_report(made: Predicted) -> dict[str, Any]:
    grid = made.volume.grid
    return {
        "grid": list(grid.shape),
        "spacing_Angstrom": [float(x) for x in grid.spacing],
        "points": grid.size,
        "atom_seconds": made.atom_seconds,
        "probe_seconds": made.probe_seconds,
        "probes_per_second": grid.size / made.probe_seconds,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A report for people: every number with its unit and what it is worth."""
    counts = " x ".join(str(n) for n in report["grid"])
    step = ", ".join(f"{x:.3f}" for x in report["spacing_Angstrom"])
    yield f"{report['structure']}: {report['formula']}, {report['atoms']} atoms"
    yield f"  grid       {counts} = {report['points']:,} points, step {step} Angstrom"
    error = report["electrons_grid_error"]
    worth = f" (the grid's own error: about {error:.2g})" if error is not None else ""
    expected = report["electrons_expected"]
    of = f" of {expected:g}" if expected is not None else ""
    yield f"  electrons  {report['electrons_sum']:.6f}{of}, sum over the grid{worth}"
    if "electrons" in report:
        factor = report["factor"]
        yield f"             {report['electrons']:.6f} after --normalize (times {factor:.6f})"
    if "spin_sum" in report:
        yield f"  spin       {report['spin_sum']:.6f} electrons, up minus down"
    if "dipole_D" in report:
        vector = " ".join(f"{x:.4f}" for x in report["dipole_D"])
        error = report["dipole_grid_error_D"]
        worth = f" (the grid's own error: about {error:.2g})" if error is not None else ""
        yield f"  dipole     {report['dipole_norm_D']:.4f} D = |{vector}|{worth}"
    if "eps_mae_percent" in report:
        yield f"  eps_mae    {report['eps_mae_percent']:.4f} % of the reference"
    rate = f"{report['probes_per_second']:,.0f} probes/s"
    parts = f"atoms {report['atom_seconds']:.2f} s, probes {report['probe_seconds']:.2f} s"
    yield f"  time       {report['seconds']:.2f} s ({parts}: {rate})"
    # An HDF5 file is complete when the last structure is in it.
    verb = "goes into" if volumetric.format_of(report["output"]) == "hdf5" else "written  "
    yield f"  {verb}  {report['output']}" + (f", {report['plot']}" if "plot" in report else "")
