"""neupol encoding: what the learned encodings of trained networks look like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neupol_cli import provenance
from neupol_cli.completion import trained
from neupol_cli.errors import UsageError
from neupol_cli.options import typed

if TYPE_CHECKING:
    from rich.table import Table

    from neupol_cli.encoding.study import Description, Similarity

COLUMNS: dict[Literal["nonlinearity", "nonmonotonicity", "diversity", "smoothness"], str] = {
    "nonlinearity": "non-linearity",
    "nonmonotonicity": "non-monotonicity",
    "diversity": "diversity",
    "smoothness": "smoothness",
}


def encoding(
    ctx: typer.Context,
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT",
            autocompletion=trained,
            help="Run folders, .safetensors files or bundled names, trained with "
            "`--encoding learned`.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="F.json", help="Write all numbers here."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="F.png",
            help="Draw curves, components, derivatives and similarities (png, pdf or svg).",
        ),
    ] = None,
    layer: Annotated[
        int,
        typer.Option(
            help="Whose curves and components --plot, -o and --json have, from 1; of fewer layers "
            "the last.",
            min=1,
        ),
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all numbers as JSON instead of a table.")
    ] = False,
) -> None:
    """Measure and draw the learned encodings of distances and angles of trained networks.

    A table tells non-linearity, non-monotonicity, diversity and smoothness beside those of the
    polynomials {x, x^2, x^3}, and for several checkpoints how similar they are. Compare networks
    that were trained with different --seed: one seed starts every target from the same tables.
    """
    from neupol_cli import figures
    from neupol_cli.encoding import study
    from neupol_cli.encoding.plot import draw
    from neupol_cli.io.files import write_json

    if typed(ctx, "layer") and not (plot or output or as_json):
        raise UsageError("--layer is of what --plot, -o and --json have: add one of them")
    if plot:
        figures.check_name(plot)
    studies = study.read(checkpoints)
    description = study.described(studies, layer)
    if plot:
        draw(plot, studies, layer)
    if output:
        write_json(output, description)
    if as_json:
        typer.echo(json.dumps(provenance.stamped(description)))
    elif not output:
        _print(description)


def _print(description: Description) -> None:
    """The characteristics, and the similarities if there are any to see."""
    from rich.table import Table

    from neupol_cli.console import stdout

    names = ("checkpoint", "targets", "encodes", "layers", *COLUMNS.values())
    table = Table(*names, box=None, pad_edge=False)
    for checkpoint in description["checkpoints"]:
        for tables in checkpoint["tables"]:
            what = f"{tables['quantity']}, {tables['size']} x {tables['bins']} bins"
            targets = ", ".join(checkpoint["targets"])
            numbers = [_number(tables[key]) for key in COLUMNS]
            table.add_row(checkpoint["label"], targets, what, str(len(tables["layers"])), *numbers)
    baseline = description["polynomial"]
    numbers = [_number(baseline[key]) for key in COLUMNS]
    table.add_row("{x, x^2, x^3}", "", f"for comparison, {baseline['bins']} bins", "", *numbers)
    stdout().print(table, highlight=False)
    if len(description["checkpoints"]) > 1:
        stdout().print()
        stdout().print(_similarities(description["similarity"]), highlight=False)


def _similarities(similarity: Similarity) -> Table:
    from rich.table import Table

    table = Table("similarity", *similarity["labels"], box=None, pad_edge=False)
    for label, row in zip(similarity["labels"], similarity["matrix"], strict=True):
        table.add_row(label, *[_number(value) for value in row])
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
