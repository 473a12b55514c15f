"""neupol relax: structures without forces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli.options import (
    AltlocOption,
    ChargeOption,
    DeviceOption,
    DtypeOption,
    FilesArgument,
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
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neupol_cli.simulation.relaxation import Relaxed


def relax(
    files: FilesArgument,
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write .extxyz with energies and forces, too."),
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="Every step of every structure, as .extxyz.")
    ] = None,
    fmax: Annotated[
        float, typer.Option(min=1e-12, help="Largest force that is left, eV/Angstrom.")
    ] = 0.01,
    steps: Annotated[int, typer.Option(min=0, help="At most so many.")] = 500,
    optimizer: Annotated[
        str, typer.Option(help="bfgs, lbfgs, fire, bfgs-linesearch or mdmin.")
    ] = "bfgs",
    cell: Annotated[
        bool, typer.Option("--cell", help="Relax the cell, too, of periodic structures.")
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
    """Relax structures by a model's forces.

    Atoms that a file holds (move_mask, selective dynamics) stay. What does not converge, or leaves
    the model's domain, ends there with a doubt.
    """
    from functools import partial

    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.errors import UsageError
    from neupol_cli.simulation import each, relaxation, results
    from neupol_cli.simulation.potential import Potential

    if optimizer not in relaxation.OPTIMIZERS:
        known = ", ".join(relaxation.OPTIMIZERS)
        raise UsageError(f"--optimizer is one of {known}, not '{optimizer}'")
    results.checked_output(output)
    results.checked_output(trajectory)
    if output and trajectory and output.resolve() == trajectory.resolve():
        raise UsageError("--trajectory: is the file that -o names; give another one")
    handling = each.Handling(reading_of(altloc, species, pbc), charge, on_error.value, strict)
    place = device_named(device)
    potential = Potential.load(model, place, dtype, stress=cell)
    cores.take(threads, place)
    options = relaxation.RelaxOptions(optimizer, fmax, steps, accept, keep=trajectory is not None)
    work = partial(relaxation.relax, potential, options)
    relaxed = each.answers(work, each.accepted(files, potential, handling), handling)
    _put_out(relaxed, output, trajectory, as_json)


def _put_out(
    relaxed: Iterator[Relaxed], output: Path | None, trajectory: Path | None, as_json: bool
) -> None:
    """Every structure on stdout as it comes, and all of them in the files."""
    from neupol_cli.simulation import results

    ends, ways = [], []

    def kept() -> Iterator[Relaxed]:
        for one in relaxed:
            if output is not None:
                ends.append((one.atoms, one.results))
            ways.extend(one.frames)
            yield one

    if as_json:
        results.print_json(one.record() for one in kept())
    else:
        results.print_table(one.row() for one in kept())
    for path, frames in ((output, ends), (trajectory, ways)):
        if path is not None:
            results.write_frames(path, frames)
