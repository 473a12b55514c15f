"""neupol density: the electron density of structures, as files that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neupol_cli import registry
from neupol_cli.distributed import process_group, torchrun
from neupol_cli.errors import InputError, UsageError
from neupol_cli.options import DeviceOption, OnError, OnErrorOption, typed

if TYPE_CHECKING:
    from neupol_cli.density.job import Job
    from neupol_cli.density.on_grid import GridChoice

# The options that each other use of the command reads; more than these are refused.
MODES = {
    "analyse": {"model", "reference", "memory", "device", "dtype", "as_json"},
    "descriptor": {
        "structure", "output", "model", "spacing", "grid", "grid_from", "margin", "memory",
        "device", "as_json",
    },
}  # fmt: skip


def density(
    ctx: typer.Context,
    structure: Annotated[
        str | None, typer.Argument(help="XYZ, POSCAR, CIF ...; - is xyz on stdin.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="rho.cube, CHGCAR, rho.xsf or rho.h5 (.gz after the text formats); "
            "with several structures .h5, or a name with {} for their numbers.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Bundled name, run folder or checkpoint.")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Largest step of the grid, Angstrom. [default: 0.2]")
    ] = None,
    grid: Annotated[
        str | None, typer.Option(metavar="N1,N2,N3", help="Points along each axis.")
    ] = None,
    grid_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The grid of a cube, CHGCAR or HDF5 file.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Around a molecule, Angstrom; cells have none.")
    ] = 3.6,
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
    plot: Annotated[
        str | None, typer.Option(metavar="F.png", help="Draw slices (png, pdf or svg).")
    ] = None,
    analyse: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead: the angular variation zeta of these densities; with -m its errors too.",
        ),
    ] = None,
    descriptor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write this in place of the density: iri, dori, laplacian or hessian.",
        ),
    ] = None,
    memory: Annotated[str, typer.Option(help="What grid and tiles may take.")] = "2GB",
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or float64.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a structure.")] = False,
    on_error: OnErrorOption = OnError.fail,
) -> None:
    """Predict the electron density of structures on a grid.

    Prints electrons (before and after --normalize), the dipole of molecules, time and probes/s.
    Cubes are in bohr and e/bohr^3, CHGCAR is density x volume, XSF and HDF5 are e/Angstrom^3.
    """
    from neupol_cli.density.on_grid import GridChoice, answer, parse_counts, parse_memory

    _check_mode(ctx)
    if analyse is not None:
        load = partial(_load, model, device, dtype) if model is not None else None
        _analyse(analyse, reference, load, parse_memory(memory), as_json)
        return
    if structure is None or output is None:
        raise UsageError("name a structure, and with -o the file to write (or --analyse a density)")
    from neupol_cli.density.job import Job

    if difference and not reference:
        raise UsageError("--difference needs a --reference to subtract")
    source = reference if reference and spacing is None and grid is None else None
    choice = GridChoice(spacing, parse_counts(grid), grid_from or source, margin)
    if descriptor is not None:
        load = partial(_load, model, device, "float64")
        _describe(descriptor, structure, output, choice, parse_memory(memory), load, as_json)
        return
    job = Job(
        choice=choice,
        memory=parse_memory(memory),
        output=output,
        normalize=normalize,
        electrons=electrons,
        reference=reference,
        difference=difference,
        plot=plot,
        dtype=dtype,
        load=lambda: _load(model, device, dtype),
    )
    torchrun.once("neupol density")
    with process_group.joined(device, process_group.SERVING_TIMEOUT) as group:
        if not group.is_main:
            group.serve(partial(answer, cache(job.load)))
            return
        job.group = group
        with group.leading():
            _run(job, structure, on_error.value, as_json)


def _check_mode(ctx: typer.Context) -> None:
    """UsageError naming what stood on the command line and would be read by nobody, and for several
    processes, which only a density is shared out to."""
    for mode, fitting in MODES.items():
        if ctx.params[mode] is None:
            continue
        torchrun.alone(f"--{mode}")
        given = [each for each in ctx.command.params if typed(ctx, str(each.name))]
        others = [each.opts[-1] for each in given if each.name not in {mode, *fitting}]
        if others:
            raise UsageError(f"--{mode} goes without {', '.join(others)}")


def _load(source: str | None, device: str, dtype: str) -> Any:
    """The density model: as named, or the first bundled one."""
    import torch

    from neupol_cli.devices import device_named

    kinds = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in kinds:
        raise UsageError(f"--dtype is one of {', '.join(kinds)}, not '{dtype}'")
    name = source or _bundled()
    return registry.load_density(name, device_named(device), kinds[dtype])


def _bundled() -> str:
    for name in registry.bundled():
        if registry.entry(registry.bundled_header(name)["model"]).task == "density":
            return name
    raise UsageError("no density model is bundled with this installation; name one with -m")


def _run(job: Job, structure: str, on_error: str, as_json: bool) -> None:
    from neupol_cli.density.job import frames

    found = list(frames(structure, on_error))
    if not found:
        raise InputError(f"{structure}: holds no structure that could be read")
    job.check_outputs(len(found))
    done = 0
    with job:
        for index, (label, atoms) in enumerate(found):
            try:
                report = job.run(index, label, atoms)
            except InputError as error:
                if on_error == "fail":
                    raise
                typer.echo(f"neupol: {error} (skipped)", err=True)
                continue
            _print(report, as_json)
            done += 1
    if not done:
        raise InputError(f"{structure}: no density was made of any of its structures")


def _print(report: dict[str, Any], as_json: bool) -> None:
    import json

    from neupol_cli.density.job import lines

    typer.echo(json.dumps(report) if as_json else "\n".join(lines(report)))


def _analyse(
    path: Path, reference: Path | None, load: Callable[[], Any] | None, memory: int, as_json: bool
) -> None:
    """zeta of every density of a file; compared with a file or a model, also the error."""
    import json

    from neupol_cli.density import analysis

    if reference is not None and load is not None:
        raise UsageError("--analyse compares with --reference or with -m, not with both")
    compare = analysis.with_file(reference) if reference is not None else None
    if load is not None:
        compare = analysis.with_model(load(), memory)
    reports = []
    for report in analysis.analyse(path, compare):
        text = "\n".join(analysis.lines(report))
        typer.echo(json.dumps(report) if as_json else text)
        reports.append(report)
    for found in analysis.summaries(reports):
        typer.echo(json.dumps(found) if as_json else analysis.summary_line(found))


def _describe(
    name: str,
    structure: str,
    output: str,
    choice: GridChoice,
    memory: int,
    load: Callable[[], Any],
    as_json: bool,
) -> None:
    """A field of the density's derivatives, for one structure."""
    import json

    from neupol_cli.density import descriptor_job
    from neupol_cli.density.job import frames

    descriptor_job.names(name, output)
    found = list(frames(structure, "fail"))
    if len(found) != 1:
        raise UsageError(f"{structure}: --descriptor takes one structure, this holds {len(found)}")
    report = descriptor_job.describe(name, *found[0], choice, memory, output, load)
    unit = report["unit"].removeprefix("1")  # a plain number has none
    span = f"{report['lowest']:.4g} to {report['highest']:.4g} {unit}".rstrip()
    text = f"{structure}: {name} {span}, {report['seconds']:.2f} s: {' '.join(report['output'])}"
    typer.echo(json.dumps(report) if as_json else text)
