"""Densities beside their free atoms: those of a file, or a model's of the structures of one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from neupol_cli import threads as cores
from neupol_cli.charges import free_atoms, pieces
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.density import measures
from neupol_cli.density.frames import frames, is_single_density
from neupol_cli.density.on_grid import GridChoice, check_size, predict
from neupol_cli.domain import doubts
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, structures, volumetric
from neupol_cli.io.charges import charged, total_charge
from neupol_cli.io.structure_formats.frame import Reading
from neupol_cli.io.volumetric import Volume, coverage, guesses, plausible
from neupol_cli.progress import counted
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.density.loading import ModelChoice


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the command line says of densities.

    Attributes:
        choice: how grids of predicted densities are made.
        memory: bytes for a grid and what is made on it.
        normalize: scale densities until charges add up; None is where the grid holds all of it.
        strict: whether doubtful densities are a bad structure.
        accept: take values for a density whatever speaks against it.
        charge: of all structures, where the user says it.
        on_error: ``fail`` or ``skip``.
        files: names of files to write, each of one structure unless it has ``{}`` for its number.
    """

    choice: GridChoice
    memory: int
    normalize: bool | None = None
    strict: bool = False
    accept: bool = False
    charge: int | None = None
    on_error: str = "fail"
    files: Sequence[str] = ()

    def check_files(self, count: int) -> None:
        """Before any work: UsageError where one file is to hold what ``count`` structures give."""
        for name in self.files:
            if count > 1 and "{}" not in name:
                raise UsageError(
                    f"{name}: for several structures the name needs {{}} for their number"
                )


@dataclass(frozen=True, eq=False)
class Source:
    """A density with what it is measured against.

    Attributes:
        label: its name.
        volume: the density of A atoms.
        charge: of the structure.
        deformation: the density less its A free atoms.
        factor: what the deformation's density was scaled by, where it was.
        doubts: reasons not to trust it.
        start: when the work began, s.
        model: that predicted it; None of a density that is given.
    """

    label: str
    volume: Volume
    charge: int
    deformation: Deformation
    factor: float | None
    doubts: Sequence[str]
    start: float
    model: str | None = None

    @property
    def electrons_expected(self) -> float:
        """How many there should be."""
        return sum(atom.electrons for atom in self.deformation.free) - self.charge


def chosen(
    source: str, reading: Reading, options: SourceOptions, point: int, model: ModelChoice
) -> Iterator[Source | InputError]:
    """The densities that a file holds, or those that a model predicts of its structures.

    Args:
        source: the file, or ``-`` for stdin.
        reading: what the user says of it.
        options: the command line's.
        point: bytes that a point of a grid takes in all.
        model: the one to ask; a file with densities is asked itself unless one is named.

    Raises:
        UsageError: a grid for a density that has its own.
        InputError, UsageError: later, as :func:`given` and :func:`predicted` say.
    """
    if model.name is not None or not holds_density(source):
        return predicted(source, reading, options, point, model)
    if options.choice.said:
        raise UsageError(f"{source}: this density has its grid; -m predicts one on another")
    cores.take(model.threads, None)
    return given(source, reading, options, point)


def holds_density(source: str) -> bool:
    """Whether a file is of densities, one or many, and not of structures only.

    Raises:
        InputError: it is damaged, or not there.
    """
    if source == "-":
        return False
    if is_single_density(source):
        return True
    path = Path(source)
    return path.is_file() and structures.is_dataset(path) and hdf5.read(path).density is not None


def given(
    source: str, reading: Reading, options: SourceOptions, point: int
) -> Iterator[Source | InputError]:
    """Every density of a file.

    Args:
        source: the file.
        reading: what the user says of it.
        options: the command line's.
        point: bytes that a point of a grid takes in all.

    Yields:
        A density, or why it is none.

    Raises:
        InputError: a damaged file.
        UsageError: several densities and one file to write.
    """
    entries = volumetric.entries(source, reading.pbc)
    first = list(islice(entries, 2)) if options.files else []
    options.check_files(len(first))
    for entry in chain(first, entries):
        label, volume = printable(entry.name), entry.volume
        guesses.tell(label, volume)
        try:
            yield _of_given(label, volume, options, point)
        except InputError as error:
            yield error


def _of_given(label: str, volume: Volume, options: SourceOptions, point: int) -> Source:
    start = time.perf_counter()
    structures.check(volume.atoms, label)
    ((_, atoms),) = charged([(label, volume.atoms)], options.charge)
    check_size(volume.grid, options.memory, point)
    reason = None if options.accept else plausible.reason_against(volume)
    if reason is not None:
        raise InputError(
            f"{label}: is no electron density: {reason}; --accept takes it for one all the same"
        )
    free = pieces.free_atoms_of(volume, total_charge(atoms, label) or 0, label)
    return _source(label, volume, free, [], options, start)


def predicted(
    source: str,
    reading: Reading,
    options: SourceOptions,
    point: int,
    asked: ModelChoice,
) -> Iterator[Source | InputError]:
    """A model's density of every structure of a file.

    Args:
        source: the file, or ``-`` for stdin.
        reading: what the user says of it.
        options: the command line's.
        point: bytes that a point of a grid takes in all.
        asked: what the command line says of the model.

    Yields:
        A structure's density, or why it has none.

    Raises:
        InputError: no structure can be read.
        UsageError: several structures and one file to write.
    """
    labelled = list(charged(frames(source, options.on_error, reading), options.charge))
    if not labelled:
        raise InputError(f"{source}: holds no structure that could be read")
    options.check_files(len(labelled))
    for label, atoms in labelled:
        try:
            yield of_predicted(label, atoms, options, point, asked)
        except InputError as error:
            yield error


def of_predicted(
    label: str, atoms: Atoms, options: SourceOptions, point: int, asked: ModelChoice
) -> Source:
    """A model's density of one structure; the arguments and errors of :func:`predicted`."""
    start = time.perf_counter()
    grid = options.choice.grid(atoms)
    tile_memory = check_size(grid, options.memory, point)
    name, model = asked.chosen(atoms)
    model.check([atoms], [label])
    valence = measures.valence_of(model.header)
    known = measures.charges_of(atoms, valence) is not None
    free = free_atoms.of_model(atoms.numbers.tolist(), valence) if known else None
    with counted("probes", grid.size) as tick:
        volume = predict(model, atoms, grid, tile_memory, tick).volume
    if free is None:
        free = pieces.free_atoms_of(volume, total_charge(atoms, label) or 0, label)
    domain = Domain.of(model.header)
    reasons = [] if domain is None else domain.doubts(atoms, Bonds.of(atoms), {})
    source = _source(label, volume, free, reasons, options, start)
    return replace(source, model=name)


def _source(
    label: str,
    volume: Volume,
    free: Sequence[FreeAtom],
    reasons: Sequence[str],
    options: SourceOptions,
    start: float,
) -> Source:
    """A density of A atoms beside A free atoms; ``reasons`` are doubts about the structure."""
    charge = total_charge(volume.atoms, label) or 0
    cut = coverage.shortfall(volume.grid, volume.atoms)
    if cut is not None and options.normalize:
        raise InputError(f"{label}: --normalize: the grid cuts the density off: {cut}")
    scaled = cut is None if options.normalize is None else options.normalize
    deformation = pieces.deformation(volume, free, charge if scaled else None)
    expected = sum(atom.electrons for atom in free) - charge
    count = doubts.of_electrons(deformation.electrons, expected, 0.0)
    if cut is None:
        error = measures.spin_grid_error(volume) or 0.0
        count += doubts.of_spin(volume.unpaired, error, volume.atoms)
    every = [*reasons, *([] if cut is None else [f"the grid cuts the density off: {cut}"]), *count]
    doubts.told(label, every, options.strict)
    factor = deformation.factor if scaled else None
    return Source(label, volume, charge, deformation, factor, every, start)
