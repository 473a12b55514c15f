"""neupol evaluate: how far models are from the labels of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neupol_cli.completion import trained
from neupol_cli.options import DeviceOption, OnError, OnErrorOption, ThreadsOption, replaced_option


def evaluate(
    files: Annotated[
        list[str], typer.Argument(metavar="DATASET...", help="Datasets of `neupol data`.")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--model",
            autocompletion=trained,
            help="Bundled name, run folder or checkpoint; repeatable.",
        ),
    ] = ["qm9"],  # noqa: B006
    partition: Annotated[
        str, typer.Option(metavar="NAME", help="Which partition of the dataset, by its name.")
    ] = "",
    split: Annotated[
        str, typer.Option(metavar="train|valid|test", help="Only this split of it.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep every value, as .csv.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="F.png", help="Draw the errors over the labels.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a label and split.")
    ] = False,
    on_error: OnErrorOption = OnError.fail,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    part: Annotated[str, replaced_option("--part", "--split train|valid|test")] = "",
) -> None:
    """Compare what models predict with the labels of datasets.

    A line a label and split, each with its unit; several models are judged by their mean, and
    their spread by how well it tells where they are off.
    """
    from neupol_cli import registry
    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.errors import InputError
    from neupol_cli.prediction import evaluation, evaluation_report
    from neupol_cli.prediction.committee import Committee

    _check_outputs(output, plot)
    place = device_named(device)
    cores.take(threads, place)
    committee = Committee([registry.load_property(name, place) for name in model], model)
    which = (partition, split, on_error.value)
    compared = [c for path in files for c in evaluation.compare(committee, path, *which)]
    if not compared:
        raise InputError("no structure was left to compare")
    (evaluation_report.json_lines if as_json else evaluation_report.table)(compared)
    if output is not None:
        evaluation_report.csv_file(output, compared)
    if plot is not None:
        evaluation_report.draw(plot, compared)


def _check_outputs(output: Path | None, plot: Path | None) -> None:
    """Wrong names are refused before anything is computed."""
    from neupol_cli import figures
    from neupol_cli.errors import UsageError
    from neupol_cli.io.files import checked_target

    if output is not None and output.suffix != ".csv":
        raise UsageError(f"{output}: the ending is .csv")
    if plot is not None:
        figures.check_name(plot)
    for path in (output, plot):
        if path is not None:
            checked_target(path)
