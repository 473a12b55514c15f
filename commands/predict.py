"""neupol predict: properties, and forces where there is an energy, of any structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli.completion import trained
from neupol_cli.options import (
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

    from neupol_cli.distributed.process_group import ProcessGroup
    from neupol_cli.errors import InputError
    from neupol_cli.prediction.committee import Named, Prediction
    from neupol_cli.prediction.conformers import Work


DEFAULT = "qm9"
MOST_CONFORMERS = 1000  # of one molecule; more are a slip of the finger
EVALUATE = "neupol evaluate DATASET... [--partition NAME] [--split SPLIT] [--plot F.png]"


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|SMILES...|-",
            help="Structures in any format of ASE, SMILES, lists of these (.smi, .csv), or "
            "datasets; - is stdin (xyz or SMILES).",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--model",
            autocompletion=trained,
            help="Bundled name, run folder or checkpoint; repeatable.",
        ),
    ] = [DEFAULT],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write .extxyz, .xyz, .csv or .h5 instead of printing."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a structure.")] = False,
    forces: Annotated[bool, typer.Option(help="Forces, too, as -dE/dx of the energy.")] = False,
    stress: Annotated[bool, typer.Option(help="Stress, too, of periodic structures.")] = False,
    conformers: Annotated[
        int | None,
        typer.Option(
            "--conformers",
            metavar="N",
            min=1,
            max=MOST_CONFORMERS,
            help="Of each SMILES try so many geometries, and average over those that differ, "
            "weighted by exp(-E/kT) at 298.15 K.",
            show_default="one geometry, no average",
        ),
    ] = None,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.fail,
    charge: ChargeOption = None,
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    errors: Annotated[bool, replaced_option("--errors", EVALUATE)] = False,
    part: Annotated[str, replaced_option("--part", EVALUATE)] = "",
    split: Annotated[str, replaced_option("--split", EVALUATE)] = "",
    plot: Annotated[str, replaced_option("--plot", EVALUATE)] = "",
) -> None:
    """Predict properties from structures.

    Results go to stdout as a table, each with its unit; into a pipe as tab-separated lines, or as
    JSON lines with --json. Several models give mean and spread.
    """
    from neupol_cli import registry
    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.distributed import process_group, torchrun
    from neupol_cli.io import structures
    from neupol_cli.io.charges import charged
    from neupol_cli.prediction import conformers as averaging
    from neupol_cli.prediction.committee import Committee

    _check_conformers(conformers, forces, stress)
    reading = replace(reading_of(altloc, species, pbc), conformers=conformers)
    place = device_named(device)
    cores.take(threads, place)
    committee = Committee([registry.load_property(name, place) for name in model], model)
    torchrun.once("neupol predict")
    work: Work = partial(committee.predicted, forces=forces, stress=stress, doubted=True)
    if conformers is not None:
        work = partial(averaging.averaged, work)

    def share(named: Sequence[Named]) -> list[Prediction]:
        return list(work(named))

    with process_group.joined(device, process_group.SERVING_TIMEOUT) as group:
        if not group.is_main:
            group.serve(share)
            return
        refusal = partial(committee.refusal, stress=stress)
        with group.leading():
            write = _writer(output, as_json)
            found = structures.read(files, on_error.value, reading=reading, doubts_told=False)
            read = charged(found, charge)
            predictions = _predictions(group, work, refusal, read, on_error.value)
            if conformers is not None:
                predictions = averaging.told(predictions)
            write(_told(predictions, strict, on_error.value))


def _check_conformers(conformers: int | None, forces: bool, stress: bool) -> None:
    """UsageError for what conformers have no average of."""
    from neupol_cli.errors import UsageError

    if conformers is not None and (forces or stress):
        option = "--forces" if forces else "--stress"
        raise UsageError(f"--conformers: {option} belongs to one geometry; leave one of them out")


def _predictions(
    group: ProcessGroup,
    work: Work,
    refusal: Callable[[str, Atoms], InputError | None],
    frames: Iterator[tuple[str, Atoms]],
    on_error: str,
) -> Iterator[Prediction]:
    """Predictions in the order of the structures, by this process or shared out to the group."""
    from neupol_cli.errors import InputError
    from neupol_cli.io import structures

    answerable = structures.accepted(frames, refusal, on_error)
    good = 0
    for good, prediction in enumerate(_shared(group, work, answerable), 1):  # noqa: B007
        yield prediction
    if not good:
        raise InputError("no structure was left to predict")


def _shared(
    group: ProcessGroup, work: Work, named: Iterator[tuple[str, Atoms]]
) -> Iterator[Prediction]:
    if group.world_size == 1:
        yield from work(named)
        return
    from neupol_cli.models.workers import IN_FLIGHT, workers
    from neupol_cli.prediction.committee import CHUNK

    share = CHUNK * IN_FLIGHT * workers()
    while some := list(islice(named, share * group.world_size)):
        yield from group.map(lambda items: list(work(items)), some)


def _told(predictions: Iterator[Prediction], strict: bool, on_error: str) -> Iterator[Prediction]:
    """The same, with doubts said as they come; ``strict`` takes the doubtful for bad structures."""
    from neupol_cli.domain import doubts
    from neupol_cli.errors import InputError

    for prediction in predictions:
        try:
            doubts.told(prediction.label, prediction.doubts, strict)
        except InputError as error:
            if on_error == "fail":
                raise
            typer.echo(f"neupol: {error} (skipped)", err=True)
            continue
        yield prediction


Writer = Callable[[Iterator["Prediction"]], None]


def _writer(output: Path | None, as_json: bool) -> Writer:
    """How the answers leave; chosen first, so that a wrong file name costs nothing."""
    from neupol_cli.errors import UsageError
    from neupol_cli.io.files import checked_target
    from neupol_cli.prediction import answers

    if output is None:
        return answers.json_lines if as_json else answers.table
    checked_target(output)
    if as_json:
        return lambda predictions: answers.json_file(output, predictions)
    if output.suffix not in answers.FILES:
        raise UsageError(
            f"{output}: the ending is one of {', '.join(answers.FILES)} (or use --json)"
        )
    return lambda predictions: answers.FILES[output.suffix](output, predictions)
