"""What ``neupol charges`` does with one structure or density after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neupol_cli.charges import free_atoms, mbis, pieces, sharing
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.charges.report import TITLES, AtomicCharges, ChargesReport
from neupol_cli.density import measures
from neupol_cli.density.job import frames, is_single_density
from neupol_cli.density.on_grid import GridChoice, check_size, predict
from neupol_cli.density.pictures import layers_of
from neupol_cli.domain import doubts
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, structures, volumetric
from neupol_cli.io.charges import charged, total_charge
from neupol_cli.io.structure_formats.frame import Reading
from neupol_cli.io.volumetric import Volume, coverage, guesses, plausible
from neupol_cli.progress import counted
from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import Scene
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.density.model import DensityModel

POINT = 40  # bytes: a point's density, its promolecule's, what is left of it, and on the way


@dataclass(frozen=True, kw_only=True)
class ChargesOptions:
    """What the command line says.

    Attributes:
        schemes: names, in order.
        choice: how grids of predicted densities are made.
        memory: bytes for a grid and what is made on it.
        normalize: scale densities until charges add up.
        strict: whether doubtful charges are a bad structure.
        accept: take values for a density whatever speaks against it.
        charge: of all structures, where the user says it.
        on_error: ``fail`` or ``skip``.
        plot: the page to draw, if any; ``{}`` stands for the structure's number.
    """

    schemes: Sequence[str]
    choice: GridChoice
    memory: int
    normalize: bool = False
    strict: bool = False
    accept: bool = False
    charge: int | None = None
    on_error: str = "fail"
    plot: str | None = None

    def page_of(self, index: int) -> str | None:
        """The page of a structure by its number.

        Raises:
            UsageError: a second one would be written over the first.
        """
        if self.plot is not None and index > 0 and "{}" not in self.plot:
            raise UsageError(
                f"{self.plot}: for several structures the name needs {{}} for their number"
            )
        return None if self.plot is None else self.plot.replace("{}", str(index))


def parse_schemes(text: str) -> list[str]:
    """``hirshfeld,mbis`` as names.

    Raises:
        UsageError: one that there is not, or one twice.
    """
    names = [word.strip() for word in text.split(",")]
    if not set(names) <= set(TITLES) or len(set(names)) < len(names):
        raise UsageError(f"--scheme takes some of {','.join(TITLES)}, not '{text}'")
    return names


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
    source: str, reading: Reading, options: ChargesOptions
) -> Iterator[ChargesReport | InputError]:
    """Charges of every density of a file.

    Args:
        source: the file.
        reading: what the user says of it.
        options: the command line's.

    Yields:
        A density's charges, or why it has none.

    Raises:
        InputError: a damaged file.
    """
    for index, entry in enumerate(volumetric.entries(source, reading.pbc)):
        plot = options.page_of(index)
        label, volume = printable(entry.name), entry.volume
        guesses.tell(label, volume)
        try:
            yield _of_given(label, volume, options, plot)
        except InputError as error:
            yield error


def _of_given(
    label: str, volume: Volume, options: ChargesOptions, plot: str | None
) -> ChargesReport:
    start = time.perf_counter()
    structures.check(volume.atoms, label)
    ((_, atoms),) = charged([(label, volume.atoms)], options.charge)
    check_size(volume.grid, options.memory, POINT)
    reason = None if options.accept else plausible.reason_against(volume)
    if reason is not None:
        raise InputError(
            f"{label}: is no electron density: {reason}; --accept takes it for one all the same"
        )
    free = pieces.free_atoms_of(volume, total_charge(atoms, label) or 0, label)
    return _report(label, volume, free, [], options, plot, start)


def predicted(
    source: str, reading: Reading, options: ChargesOptions, load: Callable[[], DensityModel]
) -> Iterator[ChargesReport | InputError]:
    """Charges of every structure of a file by a model's density.

    Args:
        source: the file, or ``-`` for stdin.
        reading: what the user says of it.
        options: the command line's.
        load: makes the model.

    Yields:
        A structure's charges, or why it has none.

    Raises:
        InputError: no structure can be read.
    """
    labelled = list(charged(frames(source, options.on_error, reading), options.charge))
    if not labelled:
        raise InputError(f"{source}: holds no structure that could be read")
    pages = [options.page_of(index) for index in range(len(labelled))]
    model = load()
    for (label, atoms), plot in zip(labelled, pages, strict=True):
        try:
            yield _of_predicted(label, atoms, options, plot, model)
        except InputError as error:
            yield error


def _of_predicted(
    label: str, atoms: Atoms, options: ChargesOptions, plot: str | None, model: DensityModel
) -> ChargesReport:
    start = time.perf_counter()
    grid = options.choice.grid(atoms)
    tile_memory = check_size(grid, options.memory, POINT)
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
    return _report(label, volume, free, reasons, options, plot, start)


def _report(
    label: str,
    volume: Volume,
    free: Sequence[FreeAtom],
    reasons: Sequence[str],
    options: ChargesOptions,
    plot: str | None,
    start: float,
) -> ChargesReport:
    """The charges in a density.

    Args:
        label: its name.
        volume: the density of A atoms.
        free: A free atoms.
        reasons: doubts about the structure.
        options: the command line's.
        plot: the page to draw.
        start: when the work began, s.
    """
    charge = total_charge(volume.atoms, label) or 0
    cut = _cut_off(label, volume, options.normalize)
    deformation = pieces.deformation(volume, free, charge if options.normalize else None)
    report = ChargesReport(
        structure=label,
        frame=volume.atoms,
        charge=charge,
        free_atoms=free_atoms.level(free),
        electrons_sum=volume.electrons,
        electrons=deformation.electrons,
        electrons_expected=sum(atom.electrons for atom in free) - charge,
        factor=deformation.factor if options.normalize else None,
    )
    count = doubts.of_electrons(report.electrons, report.electrons_expected, 0.0)
    report.doubts = [*reasons, *cut, *count]
    doubts.told(label, report.doubts, options.strict)
    report.schemes = {name: answer(name, deformation) for name in options.schemes}
    if plot is not None:
        _draw(plot, report, volume)
    report.seconds = time.perf_counter() - start
    return report


def _draw(plot: str, report: ChargesReport, volume: Volume) -> None:
    """A page with the density and the charges."""
    title = f"{structures.short(report.structure)} ({volume.atoms.get_chemical_formula()})"
    charges = {TITLES[name]: scheme.charges for name, scheme in report.schemes.items()}
    page.write(plot, Scene(title, volume.atoms, volume.grid, layers_of(volume), charges))
    report.plot = plot


def _cut_off(label: str, volume: Volume, normalize: bool) -> list[str]:
    """The doubt that a grid deserves which holds a part of the density; InputError where the whole
    is to be scaled."""
    short = coverage.shortfall(volume.grid, volume.atoms)
    if short is not None and normalize:
        raise InputError(f"{label}: --normalize: the grid cuts the density off: {short}")
    return [] if short is None else [f"the grid cuts the density off: {short}"]


def answer(name: str, deformation: Deformation) -> AtomicCharges:
    """The charges in a density by one of the schemes (DivergedError: MBIS does not settle)."""
    free, has_spin = deformation.free, deformation.spin is not None
    if name == "mbis":
        result = mbis.mbis(deformation)
        return AtomicCharges.of(result.moments, free, True, has_spin, result.shells)
    share_out = {"hirshfeld": sharing.hirshfeld, "voronoi": sharing.voronoi}[name]
    return AtomicCharges.of(share_out(deformation), free, name != "voronoi", has_spin)
