"""What ``neupol density`` does with one structure after another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from neupol_cli.density import measures
from neupol_cli.density.on_grid import GridChoice, Predicted, check_size, predict
from neupol_cli.density.report import DensityReport
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import structures, volumetric
from neupol_cli.io.volumetric import Grid, Volume
from neupol_cli.progress import counted
from neupol_cli.text import printable

if TYPE_CHECKING:
    from types import TracebackType

    from ase import Atoms

    from neupol_cli.io.volumetric.format import VolumeWriter
    from neupol_cli.models.density.model import DensityModel

ITEMSIZE = {"float32": 4, "float64": 8}
ROOM = 1.9  # Angstrom around the atoms of a molecule
SAME = 0.01  # Angstrom: atoms this close are in the same place


def frames(source: str, on_error: str) -> Iterator[tuple[str, Atoms]]:
    """(label, checked structure) of each structure in a file, or on stdin (``-``).

    Of a cube or CHGCAR only the atoms count here, of a dataset every structure, with densities or
    without; ``GridChoice`` reads the grid of a file that is to give it.
    """
    if source != "-" and _is_single_density(source):
        atoms = volumetric.read(source).atoms
        label = printable(source)
        structures.check(atoms, label)
        yield label, atoms
    else:
        yield from structures.read([source], on_error)


def _is_single_density(source: str) -> bool:
    """Whether a name is that of one density, which `structures` does not read."""
    try:
        volumetric_format = volumetric.format_of(source)
    except UsageError:
        return False
    return volumetric_format.readable and not volumetric_format.multiple


@dataclass(frozen=True, kw_only=True)
class DensityOptions:
    """What the command line says.

    Attributes:
        choice: how each structure's grid is made.
        memory: bytes for grid and tiles.
        output: file to write; ``{}`` stands for the structure's number.
        normalize: scale to the right number of electrons.
        electrons: that number, else the neutral structure's.
        reference: a density to compare with.
        difference: file for predicted minus reference.
        plot: file for slices.
        dtype: float32 or float64.
    """

    choice: GridChoice
    memory: int
    output: str
    normalize: bool = False
    electrons: float | None = None
    reference: Path | None = None
    difference: str | None = None
    plot: str | None = None
    dtype: str = "float32"

    def check_outputs(self, count: int) -> None:
        """Before any work: can the files of ``count`` structures be written?

        Raises:
            UsageError: a name of no format, of one structure only, or in a missing folder.
        """
        multiple = volumetric.format_of(self.output).multiple
        for name in filter(None, (self.output, self.difference, self.plot)):
            if count > 1 and "{}" not in name and not (name == self.output and multiple):
                raise UsageError(
                    f"{name}: for {count} structures the name needs {{}} for their number"
                )
            parent = Path(name).parent
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


class Job:
    """One call: ``with Job(...) as job: job.run(0, label, atoms)`` for every structure.

    The model is loaded when the first structure has passed its checks.

    Args:
        options: what the command line says.
        load: makes the model.
        process_group: the processes that work together.
    """

    def __init__(
        self,
        options: DensityOptions,
        load: Callable[[], DensityModel],
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.options, self.load, self.process_group = options, load, process_group
        self._stack = ExitStack()
        self._writer: VolumeWriter | None = None

    @cached_property
    def model(self) -> DensityModel:
        """The network, loaded once."""
        return self.load()

    def run(self, index: int, label: str, atoms: Atoms) -> DensityReport:
        """Predict, compare, draw and write one structure's density.

        Args:
            index: the structure's number, for names of files.
            label: its name, for messages.
            atoms: the checked structure.

        Returns:
            Its numbers.

        Raises:
            InputError: an element that the model does not know, another structure's reference ...
            UsageError: options that do not fit this structure.
            StorageError: a file cannot be read or written.
        """
        start = time.perf_counter()
        grid = self.options.choice.grid(atoms)
        tile_memory = check_size(grid, self.options.memory, ITEMSIZE[self.options.dtype])
        reference = self._reference(grid, atoms)
        whole = self._is_whole(grid, atoms)
        self.model.check([atoms], [label])
        charges = measures.charges_of(atoms, measures.valence_of(self.model.header))
        expected = None
        if whole:
            expected = measures.expected_electrons(charges, self.options.electrons)
        with counted("probes", grid.size) as tick:
            predicted = predict(self.model, atoms, grid, tile_memory, tick, self.process_group)
        report = DensityReport.of(label, predicted, charges, expected)
        if self.options.normalize:
            report.factor = measures.normalization(predicted.volume, expected)
            measures.scale(predicted.volume.values, report.factor)
            report.electrons = predicted.volume.electrons
        self._put_out(report, index, predicted, reference)
        report.seconds = time.perf_counter() - start
        return report

    def _reference(self, grid: Grid, atoms: Atoms) -> Volume | None:
        """The reference: same grid, atoms and places, or the comparison would mean nothing."""
        path = self.options.reference
        if path is None:
            return None
        reference = volumetric.read(path)
        if not grid.same_as(reference.grid):
            raise UsageError(
                "--reference: compares on the reference's grid; leave out the other one"
            )
        if not np.array_equal(atoms.numbers, reference.atoms.numbers):
            raise InputError(f"{path}: holds other atoms than the structure")
        distance = float(np.abs(atoms.positions - reference.atoms.positions).max())
        if distance > SAME:
            raise InputError(
                f"{path}: its atoms are up to {distance:.2f} Angstrom away from the "
                "structure's; name the reference itself as the structure"
            )
        return reference

    def _is_whole(self, grid: Grid, atoms: Atoms) -> bool:
        """Whether all electrons are on the grid, which --normalize needs."""
        whole = fills_cell(grid, atoms)
        if self.options.normalize and not whole:
            raise UsageError(
                "--normalize: the grid holds a part of the electrons only: it has to fill the "
                f"cell, or to leave {ROOM} Angstrom around a molecule (--margin)"
            )
        return whole

    def _put_out(
        self, report: DensityReport, index: int, predicted: Predicted, reference: Volume | None
    ) -> None:
        """Compare with the reference; write and draw the density."""
        volume, plot = predicted.volume, self.options.plot
        if reference is not None:
            report.eps_mae_percent = measures.mean_absolute_error(volume, reference)
            self._write_difference(volume, reference, index)
        report.output = _numbered(self.options.output, index)
        self._write(report.output, volume, report.structure)
        if plot:
            from neupol_cli.density.plot import draw_density

            report.plot = _numbered(plot, index)
            factor = 1.0 if report.factor is None else report.factor
            draw_density(report.plot, self.model, predicted, factor, reference)

    def _write_difference(self, volume: Volume, reference: Volume, index: int) -> None:
        if self.options.difference:
            values = volume.values - reference.values
            difference = Volume(volume.atoms, volume.grid, values)
            name = _numbered(self.options.difference, index)
            volumetric.write(name, difference, "predicted minus reference electron density")

    def _write(self, name: str, volume: Volume, label: str) -> None:
        """Into a file of its own, or into the one that holds every structure."""
        volumetric_format = volumetric.format_of(name)
        if volumetric_format.open_writer is not None and name == self.options.output:
            if self._writer is None:
                self._writer = self._stack.enter_context(
                    volumetric_format.open_writer(
                        Path(name), "electron densities by neupol", volume.spin is not None
                    )
                )
            self._writer.add(volume)
        else:
            volumetric.write(name, volume, f"{Path(label).name} electron density by neupol")
        if volumetric_format.note is not None:
            print(f"{name}: {volumetric_format.note(volume)}", file=sys.stderr)
        if volume.spin is not None and not volumetric_format.holds_spin:
            print(f"{name}: holds the total density; it has no place for spin", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)


def fills_cell(grid: Grid, atoms: Atoms) -> bool:
    """Whether the sum over the grid is that of all electrons: in a crystal, of one cell.

    A molecule's grid must leave room around its atoms: within ROOM of them are 99.7 % of the
    valence electrons of water, within 1 Angstrom 94 %.
    """
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
