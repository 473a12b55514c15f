"""The options that the density commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neupol_cli.completion import trained

ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        autocompletion=trained,
        help="Bundled name, run folder or checkpoint; auto (the default): the bundled model that "
        "suits the elements, and a molecule or a crystal.",
    ),
]
SpacingOption = Annotated[
    float | None, typer.Option(help="Largest step of the grid, Angstrom (default: 0.2).")
]
CountsOption = Annotated[
    str | None, typer.Option("--grid", metavar="N1,N2,N3", help="Points along each axis.")
]
GridFromOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The grid of another density's file.")
]
MarginOption = Annotated[
    float | None,
    typer.Option(help="Around a molecule, Angstrom (default: 3.6); cells have none."),
]
NormalizeOption = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Scale the density until charges add up; without a word, where the grid holds all of "
        "it.",
        show_default=False,
    ),
]
MemoryOption = Annotated[str, typer.Option(help="What grid and tiles may take.")]
MEMORY = "2GB"
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or float64.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a structure.")]
