"""neupol md: molecular dynamics by a model's forces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli.errors import UsageError
from neupol_cli.options import (
    COUPLINGS,
    LARGEST_SEED,
    PRESSURES,
    TEMPERATURES,
    TIMESTEPS,
    AltlocOption,
    ChargeOption,
    DeviceOption,
    DtypeOption,
    GoOnOption,
    JsonOption,
    ModelOption,
    OnError,
    OnErrorOption,
    PbcOption,
    SpeciesOption,
    StrictOption,
    ThreadsOption,
    reading_of,
    typed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from neupol_cli.simulation.dynamics import Moved
    from neupol_cli.simulation.md_job import Going

# The ensembles that read an option, of those that not all read.
READ_BY = {
    "thermostat": ("nvt",),
    "barostat": ("npt",),
    "pressure": ("npt",),
    "coupling": ("nvt", "npt"),
}
# What a run has from its beginning, and --resume takes from there.
OF_A_BEGINNING = (
    "files", "model", "ensemble", "thermostat", "barostat", "temperature", "pressure", "timestep",
    "coupling", "every", "seed", "pbc", "altloc", "species", "charge", "dtype",
)  # fmt: skip


def md(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder.")],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE|SMILES...|-]", help="Structures, as for `neupol relax`; of a new run."
        ),
    ] = [],  # noqa: B006 - typer copies it
    model: ModelOption = None,
    ensemble: Annotated[str, typer.Option(help="nve, nvt or npt.")] = "nve",
    thermostat: Annotated[
        str, typer.Option(help="Of nvt: langevin, bussi or nose-hoover.")
    ] = "langevin",
    barostat: Annotated[
        str,
        typer.Option(
            help="Of npt, with a Nose-Hoover chain: mtk (the volume) or mtk-cell (its shape, too)."
        ),
    ] = "mtk",
    temperature: Annotated[
        float,
        typer.Option(
            min=TEMPERATURES.low,
            max=TEMPERATURES.high,
            help="K; also of first velocities, where a file has none.",
        ),
    ] = 300.0,
    pressure: Annotated[
        float, typer.Option(min=PRESSURES.low, max=PRESSURES.high, help="Of npt, bar.")
    ] = 1.01325,
    timestep: Annotated[
        float, typer.Option(min=TIMESTEPS.low, max=TIMESTEPS.high, help="fs.")
    ] = 0.5,
    coupling: Annotated[
        float,
        typer.Option(
            min=COUPLINGS.low,
            max=COUPLINGS.high,
            help="Time in which the thermostat acts, fs; a barostat takes ten times that.",
        ),
    ] = 100.0,
    time: Annotated[
        str | None, typer.Option(metavar="10ps", help="How long, in all: fs, ps or ns.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="The same, in steps.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between frames.")] = 10,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="All random numbers derive from it.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where the run in the folder stopped.")
    ] = False,
    accept: GoOnOption = False,
    as_json: JsonOption = False,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.fail,
    charge: ChargeOption = None,
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    dtype: DtypeOption = "float64",
) -> None:
    """Molecular dynamics by a model's forces.

    The folder has trajectory.extxyz with velocities, energies.tsv and last.state, numbered where
    there are several structures. `neupol md --resume -o FOLDER` goes on with what was stopped or
    killed, to the same bytes; with --time or --steps it goes further. A structure that leaves the
    model's domain stops there.
    """
    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.io.files import placed
    from neupol_cli.simulation import each, md_job

    if time is not None and steps is not None:
        raise UsageError("--time and --steps say the same; leave one out")
    handling = each.Handling(reading_of(altloc, species, pbc), charge, on_error.value, strict)
    place = device_named(device)
    going = md_job.Going(placed(output), handling, accept)
    if resume:
        _check_resumable(ctx)
        moved = md_job.resume(going, time, steps, place)
    else:
        moved = _begun(ctx, going, place)
    cores.take(threads, place)
    try:
        _put_out(moved, as_json)
    except SystemExit:  # a signal
        if (output / "settings.json").exists():
            typer.echo(f"stopped; go on with: neupol md --resume -o {output}", err=True)
        raise


def _check_resumable(ctx: typer.Context) -> None:
    """Refuses what a run that goes on has already (UsageError)."""
    from neupol_cli.simulation.run_folder import given_twice

    if given := [name for name in OF_A_BEGINNING if typed(ctx, name)]:
        raise given_twice([name if name == "files" else f"--{name}" for name in given])


def _begun(ctx: typer.Context, going: Going, place: torch.device) -> Iterator[Moved]:
    """A new run, as the command line says."""
    from neupol_cli.simulation import md_job, run_folder
    from neupol_cli.simulation.integrators import Ensemble
    from neupol_cli.simulation.potential import Potential

    said = ctx.params
    words = ("thermostat", "barostat", "temperature", "pressure", "timestep", "coupling")
    ensemble = Ensemble(said["ensemble"], **{word: said[word] for word in words})
    for word, kinds in READ_BY.items():
        if typed(ctx, word) and ensemble.kind not in kinds:
            raise UsageError(f"--{word} is for --ensemble {' or '.join(kinds)}")
    if not said["files"]:
        raise UsageError("name a structure to move, or --resume")
    steps = said["steps"]
    if said["time"] is not None:
        steps = run_folder.steps_of(said["time"], ensemble.timestep)
    if steps is None:
        raise UsageError("say how long: --time 10ps, or --steps")
    potential = Potential.load(said["model"], place, said["dtype"], ensemble.kind == "npt")
    settings = run_folder.Settings(
        name=potential.name,
        model=run_folder.lasting(potential.name),
        sha256=run_folder.model_digest(potential.name),
        dtype=said["dtype"],
        ensemble=ensemble,
        every=said["every"],
        steps=steps,
        structures=0,
    )
    return md_job.begin(going, settings, potential, said["files"], said["seed"])


def _put_out(moved: Iterator[Moved], as_json: bool) -> None:
    from neupol_cli.simulation import results

    if as_json:
        results.print_json(one.record() for one in moved)
    else:
        results.print_table(one.row() for one in moved)
