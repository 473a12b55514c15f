"""The options that the commands which move atoms have in common."""

from __future__ import annotations

from typing import Annotated

import typer

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|SMILES...|-",
        help="Structures in any format of ASE, SMILES, lists of these (.smi, .csv), or datasets; - "
        "is stdin (xyz or SMILES).",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        help="Bundled name, run folder or checkpoint, of a model with an energy.",
        show_default="the bundled one that has learnt forces",
    ),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or float64.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a structure.")]
GoOnOption = Annotated[
    bool, typer.Option("--accept", help="Go on where a structure leaves the model's domain.")
]
