"""neupol density-compare: densities that there are, beside a reference or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neupol_cli import provenance
from neupol_cli.completion import trained
from neupol_cli.density import options
from neupol_cli.errors import UsageError
from neupol_cli.options import AcceptOption, DeviceOption, PbcOption, ThreadsOption


def density_compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A density, or HDF5 with many.")],
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The true densities, in the same order: eps_mae."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            autocompletion=trained,
            help="Or a model whose errors on FILE are wanted: eps_mae; auto: the bundled one that "
            "suits each structure.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Write FILE's (or the model's) density less the true one, as a cube, .xsf ...; of "
            "several a name with {} for their numbers.",
        ),
    ] = None,
    atoms: Annotated[
        bool,
        typer.Option(
            "--atoms",
            help="Of each atom its error and both Hirshfeld charges; both dipoles.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the densities (the first 6) against the distance from the nearest atom, and "
            "where its errors are; .html: a page to turn with all numbers, of several a name with "
            "{}.",
        ),
    ] = None,
    accept: AcceptOption = False,
    pbc: PbcOption = None,
    memory: options.MemoryOption = options.MEMORY,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    dtype: options.DtypeOption = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a density.")] = False,
) -> None:
    """Electrons and angular variation zeta of every density of a file.

    With --reference or -m also the error eps_mae of each, the mean, and how it goes with zeta; of
    datasets one mean a split. --atoms shares errors and charges out, -o writes the difference.
    """
    import json

    from neupol_cli import threads as cores
    from neupol_cli.console import stdout
    from neupol_cli.density import comparison, comparison_page, pictures, radial
    from neupol_cli.density.on_grid import parse_memory
    from neupol_cli.io.files import checked_target

    bytes_of_memory = parse_memory(memory)
    page = str(plot) if plot is not None and pictures.is_page(str(plot)) else None
    if plot is not None:
        pictures.check_name(str(plot))
        checked_target(plot)
    if reference is not None and model is not None:
        raise UsageError("compare with --reference or with -m, not with both")
    if reference is None and model is None and (atoms or output is not None or page is not None):
        raise UsageError("-o, --atoms and pages compare: with --reference or with -m")
    if model is not None:
        from neupol_cli.density.loading import ModelChoice

        asked = ModelChoice(model, device, dtype, threads)
        compare = comparison.with_model(asked, bytes_of_memory, accept)
    else:
        cores.take(threads, None)
        compare = comparison.with_file(reference, accept) if reference else comparison.NOTHING
    reports = []
    drawn = radial.MOST if plot is not None and page is None else 0
    wanted = comparison.Wanted(drawn, atoms, output, page is not None)
    found = comparison.reports(file, compare, pbc, bytes_of_memory, wanted)
    for report in comparison_page.drawn(found, page):
        if as_json:
            typer.echo(json.dumps(provenance.stamped(report.as_json())))
        else:
            typer.echo("\n".join(report.lines()))
            if atoms and report.atoms is not None:
                stdout().print(report.atoms.table())
        reports.append(report)
    if plot is not None and page is None:
        radial.draw([(r.structure, r.profile) for r in reports if r.profile is not None], plot)
        if len(reports) > drawn:
            typer.echo(f"{plot}: the first {drawn} of {len(reports):,} densities", err=True)
    for summary in comparison.summaries(reports):
        typer.echo(json.dumps(summary.as_json()) if as_json else summary.line())
