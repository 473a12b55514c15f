"""neupol fit: trains a network on a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

import typer
from typer.models import OptionInfo

from neupol_cli.completion import Offer, trained, untrained
from neupol_cli.options import LARGEST_SEED, MOST_THREADS, OldSplitOption, typed

if TYPE_CHECKING:
    from neupol_cli.training.fitting import Result
    from neupol_cli.training.options import Options

NETWORK, DATA, LIMIT = "Network", "Data and loss", "How long"
OPTIMISER, RUN = "Optimiser", "Run"


class _Panel(TypedDict, total=False):
    """What else an option may say of itself."""

    min: float
    max: float
    show_default: str
    metavar: str
    autocompletion: Callable[[str], list[Offer]]


def _panel(name: str, text: str, *flags: str, **more: Unpack[_Panel]) -> OptionInfo:
    return typer.Option(*flags, help=text, rich_help_panel=name, **more)


def fit(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            autocompletion=untrained, help="A network or a preset; see `neupol models`."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Argument(help="A dataset made by `neupol data`.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder.")] = Path("run"),
    target: Annotated[
        list[str], _panel(DATA, "Labels to learn, e.g. U0 or energy,forces.", show_default="all")
    ] = [],  # noqa: B006 - typer copies it
    partition: Annotated[
        str, _panel(DATA, "Which partition of the file; needed if it has several.")
    ] = "",
    split: OldSplitOption = None,
    limit: Annotated[int, _panel(DATA, "At most so many training items; 0: all.", min=0)] = 0,
    references: Annotated[
        str,
        _panel(
            DATA,
            "Element references: fitted (of sums over atoms, and where they halve the spread), "
            "atoms, none.",
        ),
    ] = "fitted",
    scale: Annotated[
        str,
        _panel(
            DATA,
            "Spread that targets are divided by: mad, std or none; auto: mad, with forces their "
            "root mean square.",
        ),
    ] = "auto",
    loss: Annotated[str, _panel(DATA, "l1 or l2.")] = "l1",
    weight: Annotated[
        list[str], _panel(DATA, "NAME=W in the loss.", show_default="1; with forces 0.2, 0.8")
    ] = [],  # noqa: B006
    polarization: Annotated[
        str | None,
        _panel(NETWORK, "Neural Polarization: off, frozen or movable; charge3net's: late, too."),
    ] = None,
    encoding: Annotated[
        str | None, _panel(NETWORK, "How distances are encoded, e.g. bessel, mlp, learned.")
    ] = None,
    start: Annotated[
        str,
        _panel(
            NETWORK,
            "Trained weights to go on from: a bundled model, run folder or checkpoint; MODEL is "
            "left out.",
            "--from",
            show_default="random weights",
            autocompletion=trained,
        ),
    ] = "",
    freeze: Annotated[
        list[str],
        _panel(
            NETWORK,
            "A part that stays as it is, by name (layers.0, embedding; a wrong one lists them), or "
            "a number: embeddings and so many first layers.",
        ),
    ] = [],  # noqa: B006
    smoothness: Annotated[
        float, _panel(DATA, "Weight of L_smooth of learned encodings.", min=0.0)
    ] = 0.0,
    set_: Annotated[
        list[str],
        _panel(
            NETWORK,
            "A setting of the network; a wrong one lists them.",
            "--set",
            metavar="KEY=VALUE",
        ),
    ] = [],  # noqa: B006
    epochs: Annotated[
        float | None, _panel(LIMIT, "Passes over the data.", min=1e-9, show_default="1000")
    ] = None,
    steps: Annotated[int | None, _panel(LIMIT, "Steps of the optimiser.", min=1)] = None,
    minutes: Annotated[
        float | None,
        _panel(LIMIT, "Time; the learning rate follows it: not bit-reproducible.", min=1e-9),
    ] = None,
    patience: Annotated[
        int, _panel(LIMIT, "Stop after so many validations without improvement; 0: never.", min=0)
    ] = 0,
    batch_size: Annotated[
        int, _panel(OPTIMISER, "Items a step, of all ranks together.", min=1)
    ] = 96,
    lr: Annotated[float, _panel(OPTIMISER, "Highest learning rate.", min=0.0)] = 1e-3,
    layer_lr: Annotated[
        list[str],
        _panel(OPTIMISER, "Of a part (as for --freeze), times --lr.", metavar="PART=FACTOR"),
    ] = [],  # noqa: B006
    optimizer: Annotated[str, _panel(OPTIMISER, "adam, adamw, amsgrad or muon.")] = "adam",
    weight_decay: Annotated[float, _panel(OPTIMISER, "Weight decay.", min=0.0)] = 0.0,
    decays: Annotated[
        str,
        _panel(
            OPTIMISER,
            "What it shrinks: all, or matrices (no biases, norms, embeddings, encodings).",
        ),
    ] = "all",
    schedule: Annotated[
        str,
        _panel(
            OPTIMISER,
            "constant, cosine[:LAST], waves[:HALVES], plateau[:PATIENCE[,FACTOR]] or "
            "exponential[:BETA] (0.96^(step/BETA)).",
        ),
    ] = "cosine",
    warmup: Annotated[int, _panel(OPTIMISER, "Steps of linear warm-up.", min=0)] = 0,
    ema: Annotated[
        float,
        _panel(OPTIMISER, "Decay of averaged weights, e.g. 0.999; 0: none.", min=0.0, max=1.0),
    ] = 0.0,
    clip: Annotated[float, _panel(OPTIMISER, "Largest gradient norm; 0: any.", min=0.0)] = 0.0,
    seed: Annotated[
        int, _panel(RUN, "All random numbers derive from it.", min=0, max=LARGEST_SEED)
    ] = 0,
    device: Annotated[str, _panel(RUN, "auto, cpu, cuda, cuda:1 …")] = "auto",
    threads: Annotated[
        int | None,
        _panel(
            RUN,
            "Threads on a CPU: for the pieces of a step's batch, and to validate.",
            min=1,
            max=MOST_THREADS,
            show_default="the cores that this process may use",
        ),
    ] = None,
    dtype: Annotated[str, _panel(RUN, "float32 or float64.", "--default-dtype")] = "float32",
    valid_every: Annotated[
        int, _panel(RUN, "Steps between validations.", min=0, show_default="an epoch, at least 500")
    ] = 0,
    save_every: Annotated[
        str, _panel(RUN, "What a kill may cost: 60s (seconds), 500 (steps) or 500,60s.")
    ] = "60s",
    resume: Annotated[
        bool, _panel(RUN, "Go on exactly where the run stopped.", "--resume")
    ] = False,
    force: Annotated[bool, _panel(RUN, "Discard the run in the folder.", "--force")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network on a dataset and test it.

    `neupol fit DATA --from CHECKPOINT` goes on with a trained one, on other data or for other
    targets.

    A preset is a published network with its recipe; `neupol models PRESET` prints what it stands
    for, and every option given here wins over it.

    The run folder holds best and last weights, everything needed to resume exactly, metrics.jsonl
    and loss.png. `neupol fit --resume -o RUN` goes on with a run that was stopped or killed.
    """
    ours = {"output", "resume", "force", "as_json", "split", "threads"}
    options = {key: value for key, value in ctx.params.items() if key not in ours}
    given = {key for key in options if typed(ctx, key)}
    if data is None and model is not None and (start or resume) and not _is_network(model):
        data, options["model"] = Path(model), None
        given = given - {"model"} | {"data"}
    options["data"] = str(data.absolute()) if data else None
    try:
        result = _trained(output, options, given, resume, force, threads)
    except SystemExit as stop:  # a signal, before the first step or after the last one
        if force or not (output / "config.json").exists():
            raise
        _say_how_to_go_on("stopped", output)
        raise typer.Exit(stop.code if isinstance(stop.code, int) else 1) from stop
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps({"run": str(output), **result}))
        return
    _print(result, output)


def _is_network(name: str) -> bool:
    """Whether this is MODEL, and not DATA alone."""
    from neupol_cli.networks import ENTRIES
    from neupol_cli.training.presets import presets

    return name in ENTRIES or name in presets()


def _trained(
    output: Path,
    options: Options,
    given: set[str],
    resume: bool,
    force: bool,
    threads: int | None,
) -> Result | None:
    """What came of the run, in the first of several processes; says how a stopped one goes on."""
    from neupol_cli.distributed import process_group
    from neupol_cli.training import fitting
    from neupol_cli.training.interrupt import Interrupted

    try:
        result = fitting.fit(output, options, given, resume, force, threads)
    except Interrupted as stop:
        _say_how_to_go_on(f"stopped by {stop}", output)
        raise typer.Exit(stop.code) from stop
    except process_group.LostRank:
        _say_how_to_go_on("stopped", output)
        raise
    return result if process_group.started().is_main else None


def _say_how_to_go_on(what: str, output: Path) -> None:
    from neupol_cli.distributed import torchrun

    if torchrun.rank_and_size()[0] == 0:
        typer.echo(f"{what}; go on with: neupol fit --resume -o {output}", err=True)


def _print(result: Result, output: Path) -> None:
    """The errors as a table on stdout; where the model is, on stderr."""
    from rich.table import Table

    from neupol_cli.console import stdout

    table = Table("target", "validation error", "test error", "unit", box=None, pad_edge=False)
    errors = {**result["valid"], **result["test"]}
    for name, error in errors.items():
        columns = [result[part].get(name) for part in ("valid", "test")]
        values = [f"{c['value']:.5g}" if c else "" for c in columns]
        table.add_row(name, *values, error["unit"])
    stdout().print(table)
    steps = f"{result['steps']} steps in {result['seconds']:.0f} s"
    typer.echo(f"{steps}; weights: {output}/best.safetensors", err=True)
