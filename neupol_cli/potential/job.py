"""What ``neupol potential`` does with one density after another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from neupol_cli.charges.sources import Source
from neupol_cli.errors import InputError
from neupol_cli.io import structures, volumetric
from neupol_cli.io.files import checked_target
from neupol_cli.io.units import BOHR, HARTREE, KCALMOL
from neupol_cli.io.volumetric import Volume
from neupol_cli.potential import surface as surfaces
from neupol_cli.potential.field import Field
from neupol_cli.potential.multipoles import multipoles
from neupol_cli.potential.report import PotentialReport
from neupol_cli.potential.surface import SurfacePotential
from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import Paint, Scene, density_layer, signed_layer

POINT = 450  # bytes: a point's density and potential, and the padded grid's transforms
PAINTED = "kcal/mol/e"
NEAR = 0.7  # so far from it may be the logarithm of the density of the surface's surroundings
UNIT = "Hartree/e (of a positive test charge)"


@dataclass(frozen=True, eq=False)
class PotentialOptions:
    """What the command line says of potentials.

    Attributes:
        points: (P, 3) Angstrom where values are wanted.
        surface: whether those on the surface are wanted.
        output: the file to write; ``{}`` stands for the structure's number.
        plot: the page to draw; the same.
    """

    points: np.ndarray
    surface: bool = False
    output: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        if self.surface:
            surfaces.require()
        if self.plot is not None:
            page.check_target(self.plot)
        if self.output is None:
            return
        checked_target(self.output)
        volumetric.written_as(self.output, "potential")


def reports(
    sources: Iterable[Source | InputError], options: PotentialOptions
) -> Iterator[PotentialReport | InputError]:
    """The potential of each density, or why it has none.

    Raises:
        StorageError: the disk is full.
    """
    for index, source in enumerate(sources):
        if isinstance(source, InputError):
            yield source
            continue
        try:
            yield _report(source, options, index)
        except InputError as error:
            yield InputError(f"{source.label}: {error}")


def _report(source: Source, options: PotentialOptions, index: int) -> PotentialReport:
    deformation, atoms = source.deformation, source.volume.atoms
    field = Field(deformation)
    surface = _surface(source, field) if options.surface else None
    values = field.on_grid()
    report = PotentialReport(
        structure=source.label,
        frame=atoms,
        model=source.model,
        charge=source.charge,
        is_valence=deformation.free[0].is_valence,
        electrons=deformation.electrons,
        electrons_expected=source.electrons_expected,
        factor=source.factor,
        lowest=float(values.min()),
        highest=float(values.max()),
        multipoles=None if atoms.pbc.any() else multipoles(deformation),
        points=options.points,
        values=field.at(options.points) if len(options.points) else np.zeros(0),
        surface=surface,
        doubts=source.doubts,
    )
    if options.output is not None:
        report.output = options.output.replace("{}", str(index))
        _write(report.output, source, values)
    if options.plot is not None:
        report.plot = options.plot.replace("{}", str(index))
        _draw(report.plot, source, values)
    report.seconds = time.perf_counter() - source.start
    return report


def _surface(source: Source, field: Field) -> SurfacePotential:
    surface = surfaces.isosurface(source.volume)
    return surfaces.on_surface(field.at(surface.points), surface, source.volume.atoms)


def _draw(path: str, source: Source, values: np.ndarray) -> None:
    """A page with the potential (n1, n2, n3), V, on the density's surfaces and by itself."""
    volume, numbers = source.volume, values / KCALMOL
    outside = np.abs(np.log(np.maximum(volume.values, 1e-12) * BOHR**3 / surfaces.LEVEL))
    near = numbers[outside < NEAR]  # of the surface that is seen first
    reach = float(np.abs(near).max()) if near.size else float(np.abs(numbers).max())
    paint = Paint("electrostatic potential", PAINTED, numbers, reach or 1.0)
    density = replace(density_layer(volume.values), level=surfaces.LEVEL / BOHR**3, paint=paint)
    title = f"{structures.short(source.label)} ({volume.atoms.get_chemical_formula()})"
    layers = [density, signed_layer(numbers, paint.title, PAINTED)]
    page.write(path, Scene(title, volume.atoms, volume.grid, layers))


def _write(path: str, source: Source, values: np.ndarray) -> None:
    volume = Volume(source.volume.atoms, source.volume.grid, values / HARTREE, unit=UNIT)
    title = f"{structures.short(source.label)} electrostatic potential by neupol"
    volumetric.write(path, volume, title)
