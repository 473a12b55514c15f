"""From the options of `neupol fit` to a trained model in its run folder."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TypedDict

import torch

from neupol_cli import __version__, provenance, registry
from neupol_cli import threads as cores
from neupol_cli.devices import device_named
from neupol_cli.distributed import process_group, torchrun
from neupol_cli.distributed.process_group import ProcessGroup
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.io import files, hdf5
from neupol_cli.models.base import Measured
from neupol_cli.provenance import Record
from neupol_cli.training import config_overrides, presets
from neupol_cli.training.loop import Trainer
from neupol_cli.training.options import ChosenOptions, Options, spelled
from neupol_cli.training.request import Request
from neupol_cli.training.run import Folder, Run, RunConfig
from neupol_cli.training.runlog import Silence, reporter
from neupol_cli.training.settings import Settings
from neupol_cli.training.start import Start
from neupol_cli.training.task import Task
from neupol_cli.training.tasks import check_options, task_for

LIMITS = ("epochs", "steps", "minutes")
EPOCHS = 1000  # EGNN's published recipe, where no limit is asked for
# What networks have beyond the published ones; ``cut`` is of the training.
OURS = {"bounded": True, "tied": True, "softened": True, "cut": True}
PUBLISHED = OURS | {"bounded": False, "tied": False, "softened": False}
# What a resumed run may change: it says how to go on. All else says what is trained on what.
CHANGEABLE = {
    *LIMITS, "data", "device", "lr", "clip", "patience", "schedule", "warmup", "weight_decay",
    "valid_every", "save_every",
}  # fmt: skip

ELSEWHERE = {"data", "device", "save_every"}  # of these, what makes no other run


class Result(TypedDict):
    """What came of a run: steps, the best one, seconds, and the errors by name."""

    steps: int
    best_step: int
    seconds: float
    valid: dict[str, Measured]
    test: dict[str, Measured]


def fit(
    output: Path,
    options: Options,
    given: set[str],
    resume: bool,
    force: bool,
    threads: int | None = None,
) -> Result:
    """Trains and tests, alone or as one of torchrun's processes.

    Args:
        output: the run folder.
        options: every option by name, defaults included, plain values.
        given: which of them stood on the command line.
        resume: go on with the run in the folder, under its own options.
        force: discard a run in the folder.
        threads: that work, on a CPU; else all that there are.

    Returns:
        ``{"steps", "best_step", "seconds", "valid", "test"}``, errors as
        ``{name: {"value", "unit"}}``.

    Raises:
        Interrupted, LostRank: with the run saved.
        NeupolError: of any kind.
    """
    config_overrides.check_finite(options)
    folder = Folder(files.placed(output))
    with (
        process_group.joined(options["device"]) as group,
        files.locked_folder(folder.reserved()) if group.is_main else nullcontext(),
    ):
        requested = _requested(folder, options, given, resume, force) if group.is_main else None
        chosen, earlier, start = group.broadcast(requested)
        if group.world_size > 1:  # each has its own
            chosen["device"] = options["device"]
        cores.take(threads, device_named(chosen["device"]))
        return _fit(folder, group, chosen, earlier, start)


def _requested(
    folder: Folder, options: Options, given: set[str], resume: bool, force: bool
) -> tuple[ChosenOptions, RunConfig | None, Start | None]:
    """The options to train with, the configuration of the run that goes on or nothing, and the
    trained model that it starts from or nothing."""
    resume = resume or folder.begun_by(torchrun.launcher())  # which starts it again, then
    folder.prepare(resume, force and not torchrun.restarts())
    if not resume:
        start = Start.of(options["start"]) if options["start"] else None
        return _begun(options, given, start), None, start
    earlier = folder.read_config()
    chosen = _continued(earlier["options"], options, given)
    return chosen, earlier, _copied(folder, chosen["start"]) if chosen["start"] else None


def _copied(folder: Folder, source: str) -> Start:
    """A run's own copy of what it began from.

    Raises:
        StorageError, CheckpointError.
    """
    start = Start.read(folder.start)
    if start.source != Path(source).name:
        raise CheckpointError(f"{folder.start}: is a copy of {start.source}, not of {source}")
    return start


def _fit(
    folder: Folder,
    group: ProcessGroup,
    chosen: ChosenOptions,
    earlier: RunConfig | None,
    start: Start | None,
) -> Result:
    provenance.inputs(_required(chosen, "data"))
    dataset = hdf5.read(_required(chosen, "data"))
    _same_data(earlier, dataset)
    task = _task(chosen, dataset, start)
    if start is not None:
        task.meta["start"] = start.origin
    trainer = Trainer(task, _settings(chosen), group)
    if group.is_main:
        folder.make(empty=not earlier)
        if start is not None and not earlier:
            start.write(folder.start)
        config: RunConfig = {"options": chosen, "fingerprint": dataset.fingerprint}
        if torchrun.launcher():
            config["launcher"] = torchrun.launcher()
        if origin := _origin(earlier, chosen):
            config["provenance"] = origin
        folder.write_config(config)
        if start is None:
            folder.start.unlink(missing_ok=True)  # of an earlier run
    return _run(folder, trainer, chosen, start, resume=bool(earlier))


def _origin(earlier: RunConfig | None, chosen: ChosenOptions) -> Record | None:
    """The record of the command that makes the run: of one that goes on as it was, the first."""
    if earlier is None:
        return provenance.record()
    options = earlier["options"]
    same = all(chosen[name] == options[name] for name in options if name not in ELSEWHERE)
    return earlier.get("provenance") if same else provenance.record()


def _run(
    folder: Folder, trainer: Trainer, options: Options, start: Start | None, resume: bool
) -> Result:
    voice = reporter() if trainer.group.is_main else Silence()
    run = Run(folder, options["model"], trainer, voice, _described(options))
    try:
        with run.interruption:
            run.start(resume)
            voice.say(_introduction(options, trainer, start))
            test = run.work()
    finally:
        run.close()
        voice.close()
    now = trainer.now
    return {
        "steps": now.step,
        "best_step": now.best_step,
        "seconds": round(trainer.elapsed(), 1),
        "valid": run.with_units(now.best_valid),
        "test": run.with_units(test),
    }


def _introduction(options: Options, trainer: Trainer, start: Start | None) -> str:
    weights = sum(p.numel() for p in trainer.parameters)
    name = options["model"] if options.get("preset") is None else options["preset"]
    text = (
        f"{name}: {weights:,} weights, {trainer.task.size:,} training items, "
        f"{trainer.sampler.per_epoch:,} steps an epoch, on {trainer.device}"
    )
    if trainer.group.world_size > 1:
        text += f" and {trainer.group.world_size - 1} more"
    if start is not None:
        new = [name for name in trainer.model.targets if name not in start.targets]
        text += f"; from {start.source}"
        text += f", heads of {', '.join(new)} from the beginning" if new and start.targets else ""
    if trainer.device.type != "cpu":
        text += "; its sums have no fixed order: not reproducible bitwise"
    if options["minutes"] is not None:
        text += (
            "; limited by time: the learning rate follows the clock, so not reproducible bitwise"
        )
    return text


def _begun(options: Options, given: set[str], start: Start | None = None) -> ChosenOptions:
    """The options of a new run: as given, then the preset's or the start's, then the defaults.

    Raises:
        UsageError: more than one limit, a name that is neither a network nor a preset, or an option
            that this kind of network has no use for.
    """
    if start is not None:
        if options["model"] not in (None, start.model):
            raise UsageError(
                f"--from {start.source} is {start.model}: leave {options['model']} out"
            )
        options = {**options, "model": start.model}
    name = _required(options, "model")
    preset = presets.chosen(name) if start is None else None
    if preset is None:
        registry.entry(name)
        chosen = {**options, "preset": None, **OURS}
    else:
        chosen = {**presets.applied(options, given, preset, _targets(options)), **PUBLISHED}
    check_options(chosen["model"], given)
    limits = [name for name in LIMITS if options[name] is not None]
    if len(limits) > 1:
        raise UsageError(f"choose one of --{' and --'.join(limits)}")
    if limits:
        chosen.update({name: options[name] for name in LIMITS})
    elif all(chosen[name] is None for name in LIMITS):
        chosen["epochs"] = EPOCHS
    return chosen


def _targets(options: Options) -> list[str]:
    return [word for text in options["target"] for word in text.split(",") if word]


def _continued(earlier: Options, options: Options, given: set[str]) -> ChosenOptions:
    """The options of a run that goes on: its own, but for those that may change.

    Raises:
        UsageError: one that was given differently and may not change.
    """
    chosen = dict(earlier)
    for name in sorted(name for name in given if options[name] != earlier.get(name)):
        if name == "model" and options[name] == earlier.get("preset"):
            continue
        if name not in CHANGEABLE:
            raise UsageError(
                f"the run was begun with {spelled(name)} {earlier[name]}; a resumed run cannot "
                "change it"
            )
        if name in LIMITS:
            chosen.update(dict.fromkeys(LIMITS))
        chosen[name] = options[name]
        print(f"{name}: {options[name]} (was {earlier[name]})", file=sys.stderr)
    return chosen


def _required(options: Options, name: str) -> str:
    value: str | None = options[name]
    if value is None:
        raise UsageError(f"{name.upper()} is missing; see neupol fit --help")
    return value


def _same_data(earlier: RunConfig | None, dataset: hdf5.Dataset) -> None:
    if earlier and earlier["fingerprint"] != dataset.fingerprint:
        raise InputError("the data are not those that this run was begun with; give the same file")


def _task(options: Options, dataset: hdf5.Dataset, start: Start | None = None) -> Task:
    """The task that the options ask for."""
    name = _required(options, "model")
    kind = registry.entry(name).load().Config
    known = {field.name for field in fields(kind)}
    config = config_overrides.config_overrides(kind, options["set_"])
    for key in ("polarization", "encoding"):
        if options[key] is not None:
            if key not in known:
                raise UsageError(f"{name} has no --{key}")
            config[key] = options[key]
    if "softening" in known and not options["softened"]:
        config.setdefault("softening", 0.0)
    names = {field.name for field in fields(Request)} & set(options)
    plain = {key: options[key] for key in names - {"targets", "weights", "config"}}
    weights = config_overrides.numbers(options["weight"], "--weight")
    if start is not None:
        config = start.settings(dataset.elements) | config
    plain |= {"start": start, "freeze": tuple(options["freeze"])}
    request = Request(targets=tuple(_targets(options)), weights=weights, config=config, **plain)
    return task_for(name, dataset, request)


def _settings(options: Options) -> Settings:
    """How to train, from the options of the same names."""
    steps, seconds = config_overrides.interval(options["save_every"])
    names = {field.name for field in fields(Settings)} & set(options)
    plain = {name: options[name] for name in names}
    plain["layer_lr"] = config_overrides.numbers(options["layer_lr"], "--layer-lr")
    return Settings(save_steps=steps, save_seconds=seconds, **plain)


def _described(options: Options) -> ChosenOptions:
    """What a checkpoint says about its training: the options, without paths of this machine."""
    hidden = {"data", "device", "save_every", "model", "start"}
    return {
        **{key: value for key, value in options.items() if key not in hidden},
        "neupol": __version__,
        "torch": torch.__version__,
    }
