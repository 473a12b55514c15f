"""neupol bench-runtime: what a prediction costs, how that grows, and what DFT costs instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from neupol_cli import provenance
from neupol_cli.completion import any_model
from neupol_cli.errors import InputError, UsageError
from neupol_cli.options import (
    AltlocOption,
    DeviceOption,
    PbcOption,
    SpeciesOption,
    ThreadsOption,
    reading_of,
)

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.structure_formats.frame import Reading
    from neupol_cli.runtime.cases import Conditions, Subject, System
    from neupol_cli.runtime.job import Crossing, Report
    from neupol_cli.runtime.timing import Environment


ALKANES = "2,4,8,16,32,64,128"
TIMES = "1,2,3,4"
BUNDLED = ["density", "qm9"]


class Timings(TypedDict):
    """All that was timed, and under which conditions."""

    environment: Environment
    settings: dict[str, float]
    series: list[Report]
    crossings: list[Crossing]


def bench_runtime(
    structure: Annotated[
        str | None,
        typer.Argument(help="A crystal to make supercells of (default BaVS3), or a molecule."),
    ] = None,
    supercells: Annotated[
        str | None,
        typer.Option(metavar="1,2,...", help=f"n of the n^3 supercells, {TIMES} if not said."),
    ] = None,
    alkanes: Annotated[
        str, typer.Option(metavar="2,4,...", help="Carbons of the straight alkanes.")
    ] = ALKANES,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            autocompletion=any_model,
            help="Bundled name, run folder or checkpoint; or a network or preset, for random "
            "weights of its size; repeatable.",
            show_default=" and ".join(BUNDLED),
        ),
    ] = None,
    dft: Annotated[
        str | None,
        typer.Option(metavar="pyscf", help="The same by DFT, PBE/GTH (extra: dft)."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="What everything together may take.")] = 3.0,
    repeats: Annotated[int, typer.Option(help="Runs of each size after a warm-up.", min=1)] = 3,
    spacing: Annotated[
        float, typer.Option(help="Largest step of a density's grid, Angstrom.")
    ] = 0.2,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="F.json", help="Write all of it here.")
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="F.png", help="Draw it, log-log (png, pdf or svg).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all of it as JSON instead of tables.")
    ] = False,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    memory: Annotated[str, typer.Option(help="What a size may take.")] = "2GB",
) -> None:
    """Time predictions at growing sizes and fit how their cost grows with the number of atoms.

    Models that know the elements are timed on supercells, the others on straight alkanes; --dft on
    the crystal that was asked for (Gamma point), or else on alkanes.
    A density is timed whole; of grids beyond a million points some blocks are, and scaled up.
    A size that would not fit in time or memory says so, and the rest goes on.
    """
    from neupol_cli.io.files import write_json
    from neupol_cli.runtime.cases import Conditions
    from neupol_cli.runtime.cases import alkanes as chains

    if not minutes > 0 or not spacing > 0:
        raise UsageError("--minutes and --spacing are positive numbers")
    if dft not in (None, "pyscf"):
        raise UsageError(f"--dft knows pyscf, not '{dft}'")
    _check_outputs(output, plot)
    conditions = Conditions(_device(device, threads), _memory(memory), spacing)
    reading = reading_of(altloc, species, pbc)
    molecules = chains(counts(alkanes, "--alkanes"))
    subjects = _subjects(
        model, _crystal(structure, supercells, reading), molecules, conditions, dft
    )
    report = _timed(subjects, conditions, minutes, repeats, not as_json)
    if output:
        write_json(output, report)
    if plot:
        from neupol_cli.runtime import job
        from neupol_cli.runtime.plot import draw

        place = job.conditions_line(report["environment"])
        draw(plot, report["series"], place)
    if as_json:
        typer.echo(json.dumps(provenance.stamped(report)))


def counts(text: str, option: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers. UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 10_000 for part in parts):
        raise UsageError(f"{option} takes positive numbers such as 1,2,4, not '{text}'")
    return tuple(int(part) for part in parts)


def _check_outputs(output: str | None, plot: str | None) -> None:
    """Before minutes are spent: names that cannot be written."""
    from neupol_cli.figures import check_name
    from neupol_cli.io.files import checked_target

    if plot:
        check_name(plot)
    for name in filter(None, (output, plot)):
        checked_target(name)


def _device(name: str, threads: int | None) -> str:
    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named

    device = device_named(name)
    cores.take(threads, device)
    return str(device)


def _memory(text: str) -> int:
    from neupol_cli.density.on_grid import parse_memory

    return parse_memory(text)


def _crystal(
    structure: str | None, supercells: str | None, reading: Reading
) -> Callable[[], System] | None:
    """The system that the user asked for, made when it is needed; None where none was."""
    from neupol_cli.runtime import cases

    if structure is None and supercells is None:
        return None
    times = counts(supercells or TIMES, "--supercells")
    if structure is None:
        return lambda: cases.supercells(cases.bavs3(), "BaVS3", times)
    atoms = _read(structure, reading)
    if not atoms.pbc.any() and supercells is None:
        times = (1,)
    system = cases.supercells(atoms, structure, times)
    return lambda: system


def _read(structure: str, reading: Reading) -> Atoms:
    from neupol_cli.io import structures

    frames = [atoms for _, atoms in structures.read([structure], reading=reading)]
    if len(frames) != 1:
        raise InputError(f"{structure}: holds {len(frames)} structures; name a file with one")
    return frames[0]


def _subjects(
    models: list[str] | None,
    crystal: Callable[[], System] | None,
    molecules: System,
    conditions: Conditions,
    dft: str | None,
) -> list[Subject]:
    """Everything that will be timed; a wrong name is found before the first minute is spent."""
    from neupol_cli.runtime import cases

    system = crystal() if crystal and dft else molecules
    reference = [cases.pyscf(system, conditions.spacing)] if dft else []
    names = models or BUNDLED
    subjects = []
    for name in names:
        subjects += cases.subjects(name, crystal, molecules, conditions)
    return subjects + reference


def _timed(
    subjects: list[Subject], conditions: Conditions, minutes: float, repeats: int, shown: bool
) -> Timings:
    """The whole report; with ``shown`` each table is printed as soon as it is there."""
    from neupol_cli.runtime import job, timing

    environment = timing.environment(conditions.device, "float32")
    if shown:
        typer.echo(job.conditions_line(environment))
    series = []
    for report in job.run(subjects, conditions, minutes, repeats):
        series.append(report)
        if shown:
            _print(report)
    crossings = job.crossings(series)
    if shown and crossings:
        typer.echo()
        for crossing in crossings:
            typer.echo(job.meeting(crossing))
    settings: dict[str, float] = {
        "minutes": minutes,
        "repeats": repeats,
        "memory_bytes": conditions.memory,
    }
    settings["spacing_Angstrom"] = conditions.spacing
    return {
        "environment": environment,
        "settings": settings,
        "series": series,
        "crossings": crossings,
    }


def _print(report: Report) -> None:
    from neupol_cli.console import stdout
    from neupol_cli.runtime import job

    typer.echo(f"\n{job.heading(report)}")
    stdout().print(job.table(report), highlight=False)
    typer.echo(job.law(report))
