"""neupol potential: the electrostatic potential of an electron density, predicted or given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance
from neupol_cli.completion import trained
from neupol_cli.density import options
from neupol_cli.errors import InputError
from neupol_cli.options import (
    AcceptOption,
    AltlocOption,
    ChargeOption,
    DeviceOption,
    OnError,
    OnErrorOption,
    PbcOption,
    SpeciesOption,
    StrictOption,
    ThreadsOption,
    reading_of,
)

if TYPE_CHECKING:
    import numpy as np

    from neupol_cli.potential.report import PotentialReport


def potential(
    source: Annotated[
        str,
        typer.Argument(
            metavar="STRUCTURE|DENSITY",
            help="A structure (- is xyz on stdin), whose density a model predicts; or a cube, "
            "CHGCAR, .xsf, .npz or .h5 that holds densities.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="v.cube, .xsf or .npz, in Hartree/e; with several structures a name with {} for "
            "their numbers.",
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="X,Y,Z", help="The value here, too (Angstrom); repeatable."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The values at the points of an .xyz or .csv (x,y,z)."),
    ] = None,
    surface: Annotated[
        bool,
        typer.Option(
            "--surface",
            help="Extrema, averages and variances where the density is 0.001 e/bohr^3.",
        ),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="F.html",
            help="Draw a page to turn: the potential on surfaces of the density; with several "
            "structures a name with {} for their numbers.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            autocompletion=trained,
            help="Predict, of the atoms only of a file with a density; auto: the bundled model "
            "that suits them.",
        ),
    ] = None,
    spacing: options.SpacingOption = None,
    grid: options.CountsOption = None,
    grid_from: options.GridFromOption = None,
    margin: options.MarginOption = None,
    normalize: options.NormalizeOption = None,
    charge: ChargeOption = None,
    accept: AcceptOption = False,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    memory: options.MemoryOption = options.MEMORY,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    dtype: options.DtypeOption = "float32",
    as_json: options.JsonOption = False,
    on_error: OnErrorOption = OnError.fail,
    strict: StrictOption = False,
) -> None:
    """The electrostatic potential of a density and its nuclei, with multipoles of molecules.

    Positive for a positive test charge. Zero far from a molecule, of mean zero in a crystal. Nuclei
    are Gaussian cores beside valence densities (GTH-PBE), points beside densities of all electrons.
    Multipoles are about the centre of nuclear charge, the quadrupole is traceless.
    """
    from neupol_cli.charges import sources
    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.density.on_grid import GridChoice, parse_counts, parse_memory
    from neupol_cli.potential import job

    settings = sources.SourceOptions(
        choice=GridChoice(spacing, parse_counts(grid), grid_from, margin),
        memory=parse_memory(memory),
        normalize=normalize,
        strict=strict,
        accept=accept,
        charge=charge,
        on_error=on_error.value,
        files=[name for name in (output, plot) if name is not None],
    )
    wanted = job.PotentialOptions(_points(at, points), surface, output, plot)
    reading = reading_of(altloc, species, pbc)
    asked = ModelChoice(model, device, dtype, threads)
    found = sources.chosen(source, reading, settings, job.POINT, asked)
    _put_out(job.reports(found, wanted), as_json, on_error.value)


def _points(at: list[str] | None, file: Path | None) -> np.ndarray:
    """All points that are asked for, (P, 3) Angstrom."""
    import numpy as np

    from neupol_cli.potential import points

    given = points.parse(at or [])
    return given if file is None else np.concatenate([given, points.read(file)])


def _put_out(reports: Iterator[PotentialReport | InputError], as_json: bool, on_error: str) -> None:
    """Every structure's numbers on stdout."""
    answered = 0
    for found in reports:
        if isinstance(found, InputError):
            if on_error == "fail":
                raise found
            typer.echo(f"neupol: {found} (skipped)", err=True)
            continue
        _print(found, as_json)
        answered += 1
    if not answered:
        raise InputError("no structure was left to have a potential")


def _print(found: PotentialReport, as_json: bool) -> None:
    import json

    from neupol_cli.console import stdout

    if as_json:
        typer.echo(json.dumps(provenance.stamped(found.as_json())))
        return
    typer.echo("\n".join(found.lines()))
    for table in found.tables():
        stdout().print(table)
