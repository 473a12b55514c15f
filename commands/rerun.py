"""neupol rerun: an output made once more by the command that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from neupol_cli.errors import InputError


def rerun(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="A file or run folder that neupol wrote."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write it here instead of comparing."),
    ] = None,
) -> None:
    """Run the command that made an output again, and say whether the same bytes come of it.

    Version, models and inputs have to be those of then, by their checksums; nothing that is there
    is written over. Of a run folder the weights are compared. Run it where the command ran.
    """
    from neupol_cli.rerun import job

    root = ctx.find_root().command

    def run(words: Sequence[str]) -> int:
        result = root.main(words, prog_name="neupol", standalone_mode=False)
        return result if type(result) is int else 0

    equal = job.rerun(source, output, run)
    if output is not None:
        typer.echo(f"{output}: written", err=True)
    elif equal:
        typer.echo(f"{source}: equal")
    else:
        raise InputError(f"{source}: is not equal to what its command makes here")
