"""What ``neupol density`` does with one structure after another."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from neupol_cli.density import augmentation, measures, pictures, references
from neupol_cli.density.around_atoms import AroundAtoms
from neupol_cli.density.on_grid import GridChoice, Predicted, check_size, predict
from neupol_cli.density.report import DensityReport
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.domain import doubts
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import InputError, NeupolError, UsageError
from neupol_cli.io import said, structures, volumetric
from neupol_cli.io.charges import total_charge
from neupol_cli.io.volumetric import Grid, Volume, coverage
from neupol_cli.io.volumetric.grid import ATOM_UNCERTAINTY
from neupol_cli.progress import counted
from neupol_cli.text import printable

if TYPE_CHECKING:
    from types import TracebackType

    from ase import Atoms

    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.io.volumetric.augmentation import Augmentation
    from neupol_cli.io.volumetric.format import VolumeWriter
    from neupol_cli.models.density.model import DensityModel

ITEMSIZE = {"float32": 4, "float64": 8}


@dataclass(frozen=True, kw_only=True)
class DensityOptions:
    """What the command line says.

    Attributes:
        choice: how each structure's grid is made.
        memory: bytes for grid and tiles.
        output: file to write, if any; ``{}`` stands for the structure's number.
        normalize: scale to the right number of electrons.
        electrons: that number, else the neutral structure's.
        reference: a density to compare with.
        difference: file for predicted minus reference.
        spin: file for up minus down.
        plot: file for slices, or for a page.
        dtype: float32 or float64.
        strict: whether a doubtful density is a bad structure.
        accept: take the reference for a density whatever speaks against it.
        augmentation_from: a CHGCAR whose augmentation occupancies go into the output.
    """

    choice: GridChoice
    memory: int
    output: str | None = None
    normalize: bool = False
    electrons: float | None = None
    reference: Path | None = None
    difference: str | None = None
    spin: str | None = None
    plot: str | None = None
    dtype: str = "float32"
    strict: bool = False
    accept: bool = False
    augmentation_from: Path | None = None

    def check_outputs(self, count: int) -> None:
        """Before any work: can the files of ``count`` structures be written?

        Raises:
            UsageError: a name of no format, of one structure only, or in a missing folder.
        """
        if self.output is None and not (self.reference or self.plot or self.spin):
            raise UsageError(
                "-o names the file to write; only --reference, --spin and --plot do without"
            )
        written = None if self.output is None else volumetric.written_as(self.output)
        if self.augmentation_from and not (written and written.holds_augmentation):
            raise UsageError("--augmentation-from: only a CHGCAR holds them; name one with -o")
        multiple = written is not None and written.multiple
        for name in filter(None, (self.output, self.difference, self.spin, self.plot)):
            if count > 1 and "{}" not in name and not (name == self.output and multiple):
                raise UsageError(
                    f"{name}: for {count} structures the name needs {{}} for their number"
                )
            parent = Path(name).parent
            if not parent.is_dir():
                raise UsageError(f"{name}: the folder {parent} does not exist; make it first")
        self._check_others({"--difference": self.difference, "--spin": self.spin})
        if self.plot:
            pictures.check_name(self.plot)
        if self.dtype not in ITEMSIZE:
            raise UsageError(f"--dtype is one of {', '.join(ITEMSIZE)}, not '{self.dtype}'")

    def _check_others(self, names: Mapping[str, str | None]) -> None:
        """UsageError for a file beside the density that has no format, or is another one's."""
        taken = {} if self.output is None else {Path(self.output).absolute(): "-o"}
        for option, name in names.items():
            if name is None:
                continue
            volumetric.written_as(name)
            other = taken.setdefault(Path(name).absolute(), option)
            if other != option:
                raise UsageError(f"{option}: is the file that {other} names; give another one")


@dataclass(frozen=True)
class Density:
    """A structure's density before it is written, and the seconds that it took."""

    report: DensityReport
    model: DensityModel
    predicted: Predicted
    reference: Volume | None
    seconds: float


Labelled = tuple[str, "Atoms"]
Made = Density | InputError


class Job:
    """One call: ``with Job(...) as job: job.results(labelled)``.

    A model is loaded when the first of its structures has passed its checks.

    Args:
        options: what the command line says.
        asked: what it says of the model.
        process_group: the processes that work together.
    """

    def __init__(
        self,
        options: DensityOptions,
        asked: ModelChoice,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.options, self.asked, self.process_group = options, asked, process_group
        self._stack = ExitStack()
        self._writer: VolumeWriter | None = None

    def results(
        self, labelled: Sequence[tuple[str, Atoms]]
    ) -> Iterator[DensityReport | InputError]:
        """Predict, compare, draw and write the densities of structures, in order.

        While one is written, the next is predicted.

        Args:
            labelled: names, for messages, and checked structures.

        Yields:
            A structure's numbers, or why it has none: an element that the model does not know,
            another structure's reference ...

        Raises:
            UsageError: options that do not fit a structure.
            StorageError: a file cannot be read or written.
        """
        predicted = map(self._attempted, labelled)
        for index, density in enumerate(self._overlapping(predicted, labelled)):
            if isinstance(density, InputError):
                yield density
                continue
            try:
                self._put_out(density, index)
            except InputError as error:
                yield error
                continue
            yield density.report

    def _overlapping(
        self, densities: Iterator[Made], labelled: Sequence[Labelled]
    ) -> Iterator[Made]:
        """The same, the next one made ahead where there is memory for two more; not where this
        process may be forked, which it may not be beside a thread that writes: that brings more."""
        if len(labelled) == 1 or self.process_group.world_size > 1 or not self._are_small(labelled):
            return densities
        self.asked.model_for(labelled[0][1])  # which settles how many threads there are
        from neupol_cli.models import processes
        from neupol_cli.models.workers import ahead

        return densities if processes.possible() else ahead(densities)

    def _are_small(self, labelled: Sequence[Labelled]) -> bool:
        if self.options.choice.source is not None:  # a file, which is not read once more for this
            return False
        limit = self.options.memory // 8 // ITEMSIZE[self.options.dtype]
        try:
            return all(self.options.choice.grid(atoms).size <= limit for _, atoms in labelled)
        except NeupolError:  # which is told where its turn is
            return False

    def _attempted(self, labelled: Labelled) -> Made:
        try:
            return self._predicted(*labelled)
        except InputError as error:
            return error

    def _predicted(self, label: str, atoms: Atoms) -> Density:
        """A structure's density, and what is said of it."""
        start = time.perf_counter()
        grid = self.options.choice.grid(atoms)
        tile_memory = check_size(grid, self.options.memory, ITEMSIZE[self.options.dtype])
        reference = self._reference(grid, atoms)
        whole = self._is_whole(grid, atoms, label)
        name, model = self.asked.chosen(atoms)
        model.check([atoms], [label])
        if self.options.spin and not model.config.spin:
            raise UsageError("--spin: this model's densities have no spin; the bundled spin's have")
        occupancies = self._augmentation(grid, atoms, model.config.spin)
        charges = measures.charges_of(atoms, measures.valence_of(model.header))
        if reference is not None and not self.options.accept:
            references.check_convention(reference, charges, str(self.options.reference))
        expected = None
        if whole:
            charge = total_charge(atoms, label) or 0
            expected = measures.expected_electrons(charges, self.options.electrons, charge)
        with counted("probes", grid.size) as tick:
            predicted = predict(model, atoms, grid, tile_memory, tick, self.process_group)
        predicted = predicted.with_augmentation(occupancies)
        report = DensityReport.of(label, predicted, charges, expected)
        report.model = name
        report.eps_mae_below_percent = model.uncertainty(predicted.features)
        report.around = around = AroundAtoms.of(model, predicted.features, atoms)
        if around is not None:
            predicted.volume.notes[ATOM_UNCERTAINTY] = around.bounds
        report.doubts = self._doubts(Domain.of(model.header), atoms, report, whole)
        doubts.told(label, report.doubts, self.options.strict, around.worst if around else None)
        if self.options.normalize:
            report.factor = measures.normalization(predicted.volume, expected)
            measures.scale(predicted.volume.values, report.factor)
            report.electrons = predicted.volume.electrons
        return Density(report, model, predicted, reference, time.perf_counter() - start)

    def _doubts(
        self, domain: Domain | None, atoms: Atoms, report: DensityReport, whole: bool
    ) -> list[str] | None:
        """Reasons not to trust the density; None where there are none and the model does not know
        its domain."""
        left_open = list(atoms.info.get(said.DOUBTS, ()))
        if domain is None:
            return left_open or None
        return [
            *left_open,
            *domain.doubts(atoms, Bonds.of(atoms), {}),
            *doubts.of_electrons(*report.electron_count()),
            *(doubts.of_spin(*report.unpaired(), atoms) if whole else ()),
        ]

    def _reference(self, grid: Grid, atoms: Atoms) -> Volume | None:
        """The reference: same grid, atoms and places, or the comparison would mean nothing."""
        path = self.options.reference
        return None if path is None else references.read(path, grid, atoms, self.options.accept)

    def _augmentation(self, grid: Grid, atoms: Atoms, spin: bool) -> Augmentation | None:
        path = self.options.augmentation_from
        if path is None:
            return None
        return augmentation.read(path, grid, atoms, spin)

    def _is_whole(self, grid: Grid, atoms: Atoms, label: str) -> bool:
        """Whether all electrons are on the grid, which --normalize needs; said where not."""
        reason = coverage.shortfall(grid, atoms)
        if reason is None:
            return True
        if self.options.normalize:
            raise UsageError(
                "--normalize: the grid holds a part of the electrons only: it has to fill the "
                f"cell, or to leave {coverage.ROOM:g} Angstrom around a molecule (--margin); "
                f"{reason}"
            )
        print(f"neupol: {label}: the grid cuts the density off: {reason}", file=sys.stderr)
        return False

    def _put_out(self, density: Density, index: int) -> None:
        """Compare with the reference; write and draw the density."""
        start, report = time.perf_counter(), density.report
        predicted, reference = density.predicted, density.reference
        volume, plot = predicted.volume, self.options.plot
        if reference is not None:
            report.eps_mae_percent = measures.mean_absolute_error(volume, reference)
            self._write_difference(volume, reference, index)
        if self.options.output is not None:
            report.output = _numbered(self.options.output, index)
            self._write(report.output, volume, report.structure)
        if self.options.spin is not None and volume.spin is not None:
            report.spin = _numbered(self.options.spin, index)
            alone = replace(volume, values=volume.spin, spin=None)
            volumetric.write(report.spin, alone, "spin density, up minus down, by neupol")
        if plot:
            report.plot = _numbered(plot, index)
            self._draw(density)
        report.seconds = density.seconds + time.perf_counter() - start

    def _draw(self, density: Density) -> None:
        report, predicted, reference = density.report, density.predicted, density.reference
        assert report.plot is not None
        if pictures.is_page(report.plot):
            title = f"{structures.short(report.structure)} ({report.formula})"
            pictures.write_page(report.plot, title, predicted.volume, reference)
            return
        from neupol_cli.density.plot import draw_density

        factor = 1.0 if report.factor is None else report.factor
        draw_density(report.plot, density.model, predicted, factor, reference)

    def _write_difference(self, volume: Volume, reference: Volume, index: int) -> None:
        if self.options.difference:
            values = volume.values - reference.values
            difference = Volume(volume.atoms, volume.grid, values)
            name = _numbered(self.options.difference, index)
            volumetric.write(name, difference, "predicted minus reference electron density")

    def _write(self, name: str, volume: Volume, label: str) -> None:
        """Into a file of its own, or into the one that holds every structure."""
        volume = replace(volume, atoms=said.named(label, volume.atoms))
        volumetric_format = volumetric.written_as(name)
        if volumetric_format.open_writer is not None and name == self.options.output:
            if self._writer is None:
                self._writer = self._stack.enter_context(
                    volumetric_format.open_writer(
                        Path(name), "electron densities by neupol", volume.spin is not None
                    )
                )
            self._writer.add(volume)
        else:
            volumetric.write(name, volume, _title(volume, label))
        if volumetric_format.note is not None:
            print(f"{name}: {volumetric_format.note(volume)}", file=sys.stderr)
        if volume.spin is not None and not volumetric_format.holds_spin:
            print(
                f"{name}: holds the total density; it has no place for spin, --spin FILE has",
                file=sys.stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)


def _title(volume: Volume, label: str) -> str:
    words = f"{structures.short(label)} electron density by neupol"
    if volume.augmentation is None:
        return words
    return f"{words}, augmentation occupancies of {printable(volume.augmentation.source)}"


def _numbered(name: str, index: int) -> str:
    return name.replace("{}", str(index))
