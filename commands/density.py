"""neupol density: the electron density of structures, as files that other programs read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance
from neupol_cli.density import options
from neupol_cli.distributed import process_group as ranks
from neupol_cli.distributed import torchrun as launch
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
    replaced_option,
)

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.density.job import Job
    from neupol_cli.io.structure_formats.frame import Reading


def density(
    structure: Annotated[
        str, typer.Argument(help="XYZ, POSCAR, CIF ..., or a SMILES; - is stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="rho.cube, CHGCAR, rho.xsf (.gz after these), rho.npz, rho.h5, or Quantum "
            "ESPRESSO's charge-density.dat; with several structures .h5, or a name with {} for "
            "their numbers.",
        ),
    ] = None,
    model: options.ModelOption = None,
    spacing: options.SpacingOption = None,
    grid: options.CountsOption = None,
    grid_from: options.GridFromOption = None,
    margin: options.MarginOption = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale to the right number of electrons.")
    ] = False,
    electrons: Annotated[
        float | None,
        typer.Option(help="Electrons there should be (ions); else of the neutral structure."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with this density, on its grid: eps_mae."),
    ] = None,
    difference: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write predicted minus reference here.")
    ] = None,
    spin: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write up minus down alone here: a cube, .xsf ..."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="F.png|F.html",
            help="Draw slices (.png, .pdf, .svg), or surfaces to turn (.html).",
        ),
    ] = None,
    augmentation_from: Annotated[
        Path | None,
        typer.Option(
            metavar="CHGCAR",
            help="PAW occupancies (and the grid) for -o CHGCAR, of a run of the same atoms.",
        ),
    ] = None,
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
    charge: ChargeOption = None,
    strict: StrictOption = False,
    analyse: Annotated[
        str | None, replaced_option("--analyse", "neupol density-compare FILE")
    ] = None,
    descriptor: Annotated[
        str | None,
        replaced_option("--descriptor", "neupol density-descriptor NAME STRUCTURE -o FILE"),
    ] = None,
) -> None:
    """Predict the electron density of structures on a grid.

    Prints electrons (before and after --normalize), the dipole of molecules, how far off the
    density may be and around which atom most of all, time and probes/s.
    Cubes are in bohr and e/bohr^3, CHGCAR is density x volume, the others are e/Angstrom^3.
    """
    from neupol_cli.density.job import DensityOptions, Job
    from neupol_cli.density.loading import ModelChoice
    from neupol_cli.density.on_grid import GridChoice, parse_counts, parse_memory, predict_shards

    if difference and not reference:
        raise UsageError("--difference needs a --reference to subtract")
    source = reference or augmentation_from if spacing is None and grid is None else None
    choice = GridChoice(spacing, parse_counts(grid), grid_from or source, margin)
    settings = DensityOptions(
        choice=choice,
        memory=parse_memory(memory),
        output=output,
        normalize=normalize,
        electrons=electrons,
        reference=reference,
        difference=difference,
        spin=spin,
        plot=plot,
        dtype=dtype,
        strict=strict,
        accept=accept,
        augmentation_from=augmentation_from,
    )
    reading = reading_of(altloc, species, pbc)
    asked = ModelChoice(model, device, dtype, threads)
    launch.once("neupol density")
    with ranks.joined(device, ranks.SERVING_TIMEOUT) as process_group:
        if not process_group.is_main:
            process_group.serve(partial(predict_shards, asked))
            return
        with process_group.leading():
            labelled = _structures(structure, on_error.value, reading, charge)
            _run(Job(settings, asked, process_group), labelled, on_error.value, as_json)


def _structures(
    source: str, on_error: str, reading: Reading, charge: int | None
) -> list[tuple[str, Atoms]]:
    """Every structure that can be read; InputError where there is none."""
    from neupol_cli.density.frames import frames
    from neupol_cli.io.charges import charged

    labelled = list(charged(frames(source, on_error, reading, doubts_told=False), charge))
    if not labelled:
        raise InputError(f"{source}: holds no structure that could be read")
    return labelled


def _run(job: Job, labelled: list[tuple[str, Atoms]], on_error: str, as_json: bool) -> None:
    """Every structure in turn, each with its report on stdout."""
    import json

    job.options.check_outputs(len(labelled))
    done = 0
    with job:
        for result in job.results(labelled):
            if isinstance(result, InputError):
                if on_error == "fail":
                    raise result
                typer.echo(f"neupol: {result} (skipped)", err=True)
                continue
            if as_json:
                typer.echo(json.dumps(provenance.stamped(result.as_json())))
            else:
                typer.echo("\n".join(result.lines()))
            done += 1
    if not done:
        raise InputError(f"{labelled[0][0]}: no density was made of any of the structures")
