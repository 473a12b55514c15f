"""neupol runs: trainings beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neupol_cli.options import OnError


def runs(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Run folders of `neupol fit`.")
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="F.png", help="Draw losses and validation errors (png, pdf or svg)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object of all runs.")] = False,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="What is no run, is at work or is damaged stops everything, or is reported and "
            "left out.",
        ),
    ] = OnError.fail,
) -> None:
    """Compare trainings: what they were, by which options they differ, and their errors.

    Errors are those of the best weights, steps, epochs and minutes those of the whole run.
    """
    from neupol_cli import figures, provenance
    from neupol_cli.runs import reading, report

    if plot is not None:
        figures.check_name(plot)
    found = reading.read(folders, on_error)
    options = reading.different([run.differing for run in found])
    records = [run.record(options) for run in found]
    if plot is not None:
        report.draw(plot, found)
    if as_json:
        typer.echo(json.dumps(provenance.stamped({"runs": records})))
    else:
        report.show(records)
