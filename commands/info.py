"""neupol info: the machine and the installation, for a report of a fault."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show versions, threads, hardware, kernels and bundled models, as a bug report needs them.

    A part that is broken says how; the others are shown all the same.
    """
    import json

    from neupol_cli.info.report import facts

    found = facts()
    if as_json:
        typer.echo(json.dumps({name: fact.record for name, fact in found.items()}, indent=2))
        return
    from rich.table import Table

    from neupol_cli.console import stdout

    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, fact in found.items():
        grid.add_row(name, fact.text)
    stdout().print(grid)
