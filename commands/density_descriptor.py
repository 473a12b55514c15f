"""neupol density-descriptor: where atoms interact, read from a density's own derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance
from neupol_cli.density import options
from neupol_cli.errors import UsageError
from neupol_cli.options import (
    AltlocOption,
    DeviceOption,
    PbcOption,
    SpeciesOption,
    ThreadsOption,
    reading_of,
)

if TYPE_CHECKING:
    pass


def density_descriptor(
    name: Annotated[str, typer.Argument(metavar="NAME", help="iri, dori, laplacian or hessian.")],
    structure: Annotated[
        str, typer.Argument(help="XYZ, POSCAR, CIF ..., or a SMILES; - is stdin.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="iri.cube, .xsf or .npz; of a hessian h_{}.cube, six files."
        ),
    ],
    model: options.ModelOption = None,
    spacing: options.SpacingOption = None,
    grid: options.CountsOption = None,
    grid_from: options.GridFromOption = None,
    margin: options.MarginOption = None,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    memory: options.MemoryOption = options.MEMORY,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write a field of the predicted density's derivatives on a grid, for one structure.

    IRI and DORI show bonds and contacts, the Laplacian where charge gathers. All by automatic
    differentiation of the network, in float64.
    """
    import json

    from neupol_cli.density import descriptor_job
    from neupol_cli.density.frames import frames
    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.density.on_grid import GridChoice, parse_counts, parse_memory

    choice = GridChoice(spacing, parse_counts(grid), grid_from, margin)
    bytes_of_memory = parse_memory(memory)
    descriptor_job.outputs_of(name, output)
    labelled = list(frames(structure, "fail", reading_of(altloc, species, pbc)))
    if len(labelled) != 1:
        raise UsageError(f"{structure}: one structure is needed here, this holds {len(labelled)}")
    report = descriptor_job.describe(
        name,
        *labelled[0],
        choice,
        bytes_of_memory,
        output,
        ModelChoice(model, device, "float64", threads),
    )
    typer.echo(json.dumps(provenance.stamped(report.as_json())) if as_json else report.line())
