"""What ``neupol charges`` does with one density after another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from neupol_cli.charges import bader, free_atoms, mbis, sharing
from neupol_cli.charges.pieces import Deformation
from neupol_cli.charges.report import TITLES, AtomicCharges, ChargesReport
from neupol_cli.charges.sources import Source
from neupol_cli.density.pictures import layers_of
from neupol_cli.domain import doubts
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import structures
from neupol_cli.io.volumetric import Volume
from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import Scene

POINT = 40  # bytes: a point's density, its promolecule's, what is left of it, and on the way


def parse_schemes(text: str) -> list[str]:
    """``hirshfeld,mbis`` as names.

    Raises:
        UsageError: one that there is not, or one twice; one whose package is not installed.
    """
    names = [word.strip() for word in text.split(",")]
    if not set(names) <= set(TITLES) or len(set(names)) < len(names):
        raise UsageError(f"--scheme takes some of {','.join(TITLES)}, not '{text}'")
    if "bader" in names:
        bader.require()
    return names


def reports(
    sources: Iterable[Source | InputError],
    schemes: Sequence[str],
    plot: str | None = None,
    strict: bool = False,
) -> Iterator[ChargesReport | InputError]:
    """The charges in each density, or why it has none.

    Args:
        sources: the densities.
        schemes: names, in order.
        plot: the page to draw, if any; ``{}`` stands for the density's number.
        strict: whether what a scheme doubts is an InputError.
    """
    for index, source in enumerate(sources):
        if isinstance(source, InputError):
            yield source
            continue
        report = _report(source, schemes)
        doubted = [reason for scheme in report.schemes.values() for reason in scheme.doubts]
        try:
            doubts.told(source.label, doubted, strict)
        except InputError as error:
            yield error
            continue
        report.doubts = [*report.doubts, *doubted]
        if plot is not None:
            _draw(plot.replace("{}", str(index)), report, source.volume)
        report.seconds = time.perf_counter() - source.start
        yield report


def _report(source: Source, schemes: Sequence[str]) -> ChargesReport:
    deformation = source.deformation
    return ChargesReport(
        structure=source.label,
        frame=source.volume.atoms,
        model=source.model,
        charge=source.charge,
        free_atoms=free_atoms.level(deformation.free),
        electrons_sum=source.volume.electrons,
        electrons=deformation.electrons,
        electrons_expected=source.electrons_expected,
        factor=source.factor,
        schemes={name: answer(name, deformation) for name in schemes},
        doubts=source.doubts,
    )


def _draw(plot: str, report: ChargesReport, volume: Volume) -> None:
    """A page with the density and the charges."""
    title = f"{structures.short(report.structure)} ({volume.atoms.get_chemical_formula()})"
    charges = {TITLES[name]: scheme.charges for name, scheme in report.schemes.items()}
    page.write(plot, Scene(title, volume.atoms, volume.grid, layers_of(volume), charges))
    report.plot = plot


def answer(name: str, deformation: Deformation) -> AtomicCharges:
    """The charges in a density by one of the schemes (DivergedError: MBIS does not settle)."""
    free, has_spin = deformation.free, deformation.spin is not None
    if name == "mbis":
        result = mbis.mbis(deformation)
        return AtomicCharges.of(result.moments, free, True, has_spin, result.shells)
    if name == "bader":
        found = bader.bader(deformation)
        made = AtomicCharges.of(found.moments, free, False, has_spin)
        return replace(made, basins=found.volumes, doubts=found.doubts)
    share_out = {"hirshfeld": sharing.hirshfeld, "voronoi": sharing.voronoi}[name]
    return AtomicCharges.of(share_out(deformation), free, name != "voronoi", has_spin)
