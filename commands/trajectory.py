"""neupol trajectory: where movable points go, as numbers and as pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance, registry
from neupol_cli.completion import trained
from neupol_cli.errors import InputError, UsageError
from neupol_cli.options import (
    AltlocOption,
    DeviceOption,
    OnError,
    OnErrorOption,
    PbcOption,
    SpeciesOption,
    ThreadsOption,
    reading_of,
    typed,
)

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.structure_formats.frame import Reading
    from neupol_cli.models.base import Model
    from neupol_cli.trajectory.paths import Trajectory
    from neupol_cli.trajectory.polarity import Polarity


class Beside(StrEnum):
    """What of atoms is drawn beside their points' paths."""

    charges = "charges"
    electronegativity = "electronegativity"


def trajectory(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="STRUCTURE...|-",
            help="Structures in any format of ASE, or SMILES; - is stdin (xyz or SMILES).",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--model",
            autocompletion=trained,
            help="Bundled name, run folder or checkpoint with movable points; repeatable.",
            show_default="the first bundled one with movable points",
        ),
    ] = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write all points: .h5, or .extxyz (a frame a layer)."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="F.png|F.html", help="Draw them: .png, .pdf, .svg, or .html to turn."),
    ] = None,
    magnify: Annotated[
        float, typer.Option(min=0.1, help="Draw paths so many times as long as they are.")
    ] = 1.0,
    beside: Annotated[
        Beside | None,
        typer.Option(
            help="Draw atoms by their charges (Hirshfeld, of the bundled density) or "
            "electronegativities (Pauling) in a panel before the paths."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a structure and model.")
    ] = False,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.fail,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Follow the movable points of structures through the layers of a model.

    A network of T layers shows x~_0 (the atoms) to x~_{T-1}: behind the last layer nothing moves,
    as the answer would not see it; a density model's probes do see x~_T. Prints for each atom how
    far its point went (Angstrom, and as a fraction of half its shortest bond), the angle to the
    nearest bond, the way out from the centre of mass and out of the plane of a flat ring; then
    means by element and by kind of bond.
    """
    from neupol_cli.io.files import checked_target
    from neupol_cli.trajectory.files import writer
    from neupol_cli.trajectory.pictures import check_count, plotter

    for name in ("beside", "magnify"):
        if typed(ctx, name) and plot is None:
            raise UsageError(f"--{name} shows in the picture of --plot FILE: add it")
    write = writer(checked_target(output)) if output else None
    draw = plotter(checked_target(plot)) if plot else None
    trajectories = []
    reading = reading_of(altloc, species, pbc)
    for followed in _followed(files, _models(model, device, threads), on_error.value, reading):
        trajectories.append(followed)
        _print(followed, as_json)
    if not trajectories:
        raise InputError("no structure was left to follow")
    if output and write:
        write(output, trajectories)
    if plot and draw:
        check_count(len({id(followed.atoms) for followed in trajectories}), plot)
        shown = _polarities(beside, trajectories, device, on_error.value) if beside else {}
        drawn = [one for one in trajectories if beside is None or id(one.atoms) in shown]
        if not drawn:
            raise InputError("no structure was left to draw")
        draw(plot, drawn, magnify, list(shown.values()))


def _polarities(
    beside: Beside, trajectories: list[Trajectory], device: str, on_error: str
) -> dict[int, Polarity]:
    """Of every structure, by the id of its atoms; those that have none are said and left out."""
    from neupol_cli.trajectory import polarity

    find, found = polarity.finder(beside.value, device), {}
    for key, one in {id(one.atoms): one for one in trajectories}.items():
        try:
            found[key] = find(one.label, one.atoms)
        except InputError as error:
            if on_error == "fail":
                raise
            print(f"neupol: {error} (not drawn)", file=sys.stderr)
    return found


def _models(names: list[str], device: str, threads: int | None) -> dict[str, Model]:
    """The models by the name that tells them apart.

    Raises:
        UsageError: one has no movable points.
    """
    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.trajectory.paths import check_movable

    place = device_named(device)
    cores.take(threads, place)
    models: dict[str, Model] = {}
    for source in names or [registry.bundled_for("has movable points", _is_movable)]:
        loaded = registry.load(source, place)
        check_movable(loaded, source)
        short = Path(source).stem
        models[source if short in models else short] = loaded
    return models


def _is_movable(header: registry.Header) -> bool:
    return bool(header["config"].get("polarization") == "movable")


def _followed(
    files: list[str], models: dict[str, Model], on_error: str, reading: Reading
) -> Iterator[Trajectory]:
    """Every structure under every model; a structure that one model refuses is left out of all."""
    from neupol_cli.io import structures
    from neupol_cli.models.workers import in_order
    from neupol_cli.trajectory import paths

    def follow(labelled: tuple[str, Atoms]) -> list[Trajectory] | InputError:
        try:
            return [paths.trajectory(m, name, *labelled) for name, m in models.items()]
        except InputError as error:
            return error

    for followed in in_order(follow, structures.read(files, on_error, reading=reading)):
        if not isinstance(followed, InputError):
            yield from followed
        elif on_error == "fail":
            raise followed
        else:
            print(f"neupol: {followed} (skipped)", file=sys.stderr)


def _print(trajectory: Trajectory, as_json: bool) -> None:
    import json

    from neupol_cli.io import said
    from neupol_cli.trajectory.measures import report

    values = report(trajectory)
    if as_json:
        info = said.item(said.of(trajectory.atoms))
        typer.echo(json.dumps(provenance.stamped({**values, **info})))
        return
    from neupol_cli.console import stdout
    from neupol_cli.trajectory.tables import tables

    for table in tables(values):
        stdout().print(table)
