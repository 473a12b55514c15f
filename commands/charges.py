"""neupol charges: atomic charges from an electron density, predicted or given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance
from neupol_cli.completion import trained
from neupol_cli.density import options
from neupol_cli.errors import InputError, UsageError
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
    from neupol_cli.charges.report import ChargesReport

OUTPUTS = (".extxyz", ".xyz")


def charges(
    source: Annotated[
        str,
        typer.Argument(
            metavar="STRUCTURE|DENSITY",
            help="A structure (- is xyz on stdin), whose density a model predicts; or a cube, "
            "CHGCAR, .npz or .h5 that holds densities.",
        ),
    ],
    scheme: Annotated[
        str,
        typer.Option(help="hirshfeld, voronoi, mbis, bader (extra: bader); several with commas."),
    ] = "hirshfeld",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write .extxyz with a column for each number, too."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="F.html",
            help="Draw a page to turn: atoms by their charges, surfaces of the density; with "
            "several structures a name with {} for their numbers.",
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
    """Share a density out to its atoms: charges, dipoles, volumes, and spins where it has spin.

    Hirshfeld and Voronoi deformation density (VDD) measure against free atoms of the same electrons
    (PBE, valence or all), MBIS fits Slater shells, Bader follows the density uphill; dipoles are
    about the nuclei.
    """
    from neupol_cli.charges import job, sources
    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.density.on_grid import GridChoice, parse_counts, parse_memory
    from neupol_cli.surfaces import page

    schemes = job.parse_schemes(scheme)
    settings = sources.SourceOptions(
        choice=GridChoice(spacing, parse_counts(grid), grid_from, margin),
        memory=parse_memory(memory),
        normalize=normalize,
        strict=strict,
        accept=accept,
        charge=charge,
        on_error=on_error.value,
        files=[] if plot is None else [plot],
    )
    _check_output(output)
    if plot is not None:
        page.check_target(plot)
    reading = reading_of(altloc, species, pbc)
    asked = ModelChoice(model, device, dtype, threads)
    found = sources.chosen(source, reading, settings, job.POINT, asked)
    _put_out(job.reports(found, schemes, plot, strict), output, as_json, on_error.value)


def _check_output(output: Path | None) -> None:
    from neupol_cli.io.files import checked_target

    if output is None:
        return
    if output.suffix not in OUTPUTS:
        raise UsageError(f"{output}: the ending is one of {', '.join(OUTPUTS)}")
    checked_target(output)


def _put_out(
    reports: Iterator[ChargesReport | InputError],
    output: Path | None,
    as_json: bool,
    on_error: str,
) -> None:
    """Every structure's charges on stdout, and all of them in the file."""
    from neupol_cli.charges import report

    done, answered = [], 0
    said: set[str] = set()
    for found in reports:
        if isinstance(found, InputError):
            if on_error == "fail":
                raise found
            typer.echo(f"neupol: {found} (skipped)", err=True)
            continue
        if found.free_atoms not in said:
            typer.echo(f"neupol: free atoms: {found.free_atoms}", err=True)
            said.add(found.free_atoms)
        _print(found, as_json)
        answered += 1
        if output is not None:
            done.append(found)
    if not answered:
        raise InputError("no structure was left to share a density out in")
    if output is not None:
        report.write(output, done)


def _print(found: ChargesReport, as_json: bool) -> None:
    import json

    from neupol_cli.console import stdout

    if as_json:
        typer.echo(json.dumps(provenance.stamped(found.as_json())))
        return
    typer.echo("\n".join(found.lines()))
    for table in found.tables():
        stdout().print(table)
