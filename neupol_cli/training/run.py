"""A run folder: what a training leaves behind, and how it goes on from there.

    config.json          what was asked for
    state.safetensors    everything needed to go on exactly
    last.safetensors     the weights of that state (averaged ones where there is an average)
    start.safetensors    a copy of the trained model that it went on from, if there is one
    best.safetensors     those with the least validation error, in the end with their test errors
    metrics.jsonl        losses and validation errors by step
    loss.png             the same as a picture
    events.out.tfevents.*    and for TensorBoard, where it is installed

The state alone decides where a run goes on; every file is replaced in one step. A kill at any
moment therefore loses the steps since the last state and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from neupol_cli import checkpoint
from neupol_cli.distributed.process_group import LostRank
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.io import files
from neupol_cli.models.base import FactsRecord, Measured
from neupol_cli.models.calibration import without
from neupol_cli.provenance import Record
from neupol_cli.training.events import Events
from neupol_cli.training.interrupt import Interrupted, Interruption
from neupol_cli.training.loop import Trainer
from neupol_cli.training.options import ChosenOptions
from neupol_cli.training.runlog import PICTURE_SECONDS, Metrics, Reporter, picture
from neupol_cli.training.stored_options import StoredOptions
from neupol_cli.validation import mismatch, other_format

FORMAT = 1  # of config.json; that of version 0.1 does not say it


class RunConfig(TypedDict, total=False):
    """config.json: its format, the options, the fingerprint of the data, torchrun's mark where it
    began, and where the run comes from (neupol_cli/provenance.py)."""

    format: int
    options: ChosenOptions
    fingerprint: str
    launcher: str
    provenance: Record


class StoredRun(TypedDict, total=False):
    """The same as it is read; the options are looked at afterwards."""

    options: dict[str, object]
    fingerprint: str
    launcher: str
    provenance: Record


@dataclass(frozen=True)
class Folder:
    """The files of one run."""

    path: Path

    def __getitem__(self, name: str) -> Path:
        return self.path / name

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def start(self) -> Path:
        return self.path / "start.safetensors"

    def reserved(self) -> Path:
        """The path to lock; the folder that it stands in is made if it is missing."""
        with files.reported(self.path):
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        return self.path.absolute()

    def make(self, empty: bool) -> None:
        """Makes the folder unless it is there; ``empty`` forgets an earlier run in it."""
        with files.reported(self.path):
            self.path.mkdir(exist_ok=True)
            names = ("state", "last", "best") if empty else ()
            for name in names:
                self[f"{name}.safetensors"].unlink(missing_ok=True)

    def prepare(self, resume: bool, force: bool) -> None:
        """Agrees to what is in the folder.

        Raises:
            UsageError: it holds a run and neither ``resume`` nor ``force`` was asked for, if
                there is nothing to resume, or if it holds something else.
        """
        begun = self["config.json"].exists()
        if resume and not begun:
            raise UsageError(
                f"{self.path}: holds no run to resume; leave --resume out to begin one"
            )
        if begun and not (resume or force):
            raise UsageError(
                f"{self.path}: holds a run already; go on with --resume or discard: --force"
            )
        if not begun and self.path.exists() and not self._vacant():
            raise UsageError(f"{self.path}: is not empty and holds no run; name another folder")

    def _vacant(self) -> bool:
        """Whether there is a folder with nothing in it but leftovers of a run killed at once."""
        ends = ("", ".partial", ".lock")
        leftovers = {f"{name}{end}" for name in ("config.json", self.start.name) for end in ends}
        return self.path.is_dir() and all(p.name in leftovers for p in self.path.iterdir())

    def begun_by(self, launcher: str) -> bool:
        """Whether this very torchrun has begun, or gone on with, the run in the folder."""
        if not launcher or not self["config.json"].exists():
            return False
        return self.read_config().get("launcher") == launcher

    def write_config(self, config: RunConfig) -> None:
        """Stores what was asked for."""
        with files.atomic(self["config.json"]) as partial:
            partial.write_text(json.dumps({"format": FORMAT, **config}, indent=1) + "\n")

    def read_config(self) -> RunConfig:
        """What was asked for.

        Raises:
            InputError: if the file is damaged, or of another format.
        """
        try:
            with files.reported(self["config.json"]):
                config: RunConfig = json.loads(self["config.json"].read_text())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self['config.json']}: not JSON: {error}") from error
        if isinstance(config, dict) and (
            problem := other_format(config.get("format", FORMAT), FORMAT)
        ):
            raise InputError(f"{self['config.json']}: {problem}")
        if not isinstance(config, dict) or not {"options", "fingerprint"} <= config.keys():
            raise InputError(f"{self['config.json']}: does not say how the run was begun")
        if problem := mismatch(config, StoredRun, ""):
            raise InputError(f"{self['config.json']}: {problem}")
        return {**config, "options": self._checked(config["options"])}

    def _checked(self, options: ChosenOptions) -> ChosenOptions:
        """The options of a run as it would be begun today; versions before called some otherwise.

        Raises:
            InputError: one is missing, of another type or out of range.
        """
        current = {"partition" if name == "split" else name: options[name] for name in options}
        if "preset" not in options:  # --scale had no "auto" then, and "mad" meant it
            current |= {"preset": None, "scale": "auto"}
        for name in ("bounded", "tied", "softened", "cut"):
            current.setdefault(name, False)  # nothing was, then
        current = {"start": "", "freeze": [], "layer_lr": []} | current
        if problem := mismatch(current, StoredOptions, "options"):
            raise InputError(f"{self['config.json']}: {problem}")
        return current


class Run:
    """A trainer at work in a folder, whose lock its caller holds.

    Of several ranks the first one reads and writes there.

    Args:
        folder: where everything goes.
        name: the model's name in the registry.
        trainer: what is trained.
        reporter: where to say how it is getting on.
        settings: what the header of a checkpoint says about the training.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        trainer: Trainer,
        reporter: Reporter,
        settings: Mapping[str, object],
    ) -> None:
        self.folder, self.name, self.trainer, self.reporter = folder, name, trainer, reporter
        self.settings = dict(settings)
        self.group = trainer.group
        self.metrics = Metrics(folder["metrics.jsonl"])
        self.events: Events | None = None
        self.facts: FactsRecord | None = None
        self.interruption = Interruption(repeats=self.group.world_size > 1)
        self.saved_at = self.drawn_at = time.monotonic()
        self.spoken_step, self.spoken_at = 0, time.monotonic()

    def start(self, resume: bool) -> None:
        """Goes on from the folder's state, or from the beginning if there is none yet."""
        state = self.group.broadcast(self._stored(resume) if self.group.is_main else None)
        if state:
            try:
                self.trainer.restore(state)
            except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.folder.state}: not a state of this model: {error}"
                ) from error
            self.reporter.say(f"resuming at step {self.trainer.now.step}")
            if self.trainer.stopped():
                stale = self.trainer.now.stale
                self.reporter.say(
                    f"it ended after {stale} validations without improvement; "
                    "a larger --patience lets it go on (0: no limit)"
                )
        if self.group.is_main:
            self.metrics.rewind(self.trainer.now.step if state else -1)
            elapsed = self.trainer.elapsed()
            self.events = Events.of(self.folder.path, self.metrics.lines(), elapsed)
        self.spoken_step = self.trainer.now.step

    def _stored(self, resume: bool) -> checkpoint.State:
        """The folder's state; empty where there is none yet, or a run begins."""
        path = self.folder.state
        return checkpoint.load_state(path) if resume and path.exists() else {}

    def work(self) -> dict[str, float]:
        """Trains to the limit and tests the best weights: name -> error, in the task's units.

        Raises:
            Interrupted: with everything saved, if ``interruption`` was entered and a signal came.
            LostRank: likewise, if another rank has ended.
            DivergedError.
            TemporaryError.
        """
        try:
            with self.trainer.apart():
                self._train()
            return self._test()
        except (Interrupted, LostRank) as stop:
            # Looked at first: when a rank is lost, torchrun then sends the others a signal.
            signal_number = self.interruption.number
            self._save()
            self._draw()
            if signal_number:
                raise Interrupted(signal_number) from stop
            raise

    def close(self) -> None:
        """No more will come."""
        if self.events is not None:
            self.events.close()

    def _train(self) -> None:
        trainer, settings = self.trainer, self.trainer.settings
        while True:
            if trainer.evaluation_due():
                self._evaluate()
            if trainer.done():
                break
            if signal := trainer.agree(self.interruption.number):
                raise Interrupted(signal)
            trainer.step()
            if trainer.now.step % settings.log_every == 0:
                self._log()
            if self._save_due():
                self._save()
        if trainer.window.count:
            self._log()
        self._save()
        self._draw()

    def _log(self) -> None:
        trainer = self.trainer
        trainer.verify()
        record = {
            "step": trainer.now.step,
            "epoch": round(trainer.now.step / trainer.sampler.per_epoch, 4),
            "lr": trainer.rate,
            "seconds": round(trainer.elapsed(), 2),
            **trainer.window.take(),
        }
        self._note(record)
        now = time.monotonic()
        pace = (trainer.now.step - self.spoken_step) / max(now - self.spoken_at, 1e-9)
        self.spoken_step, self.spoken_at = trainer.now.step, now
        text = f"step {record['step']}  epoch {record['epoch']:.2f}  loss {record['loss']:.4g}"
        self.reporter.training(trainer.progress().fraction, f"{text}  {pace:.1f} steps/s")

    def _evaluate(self) -> None:
        trainer = self.trainer
        domain = self._domain()  # first: what stops it must not leave half an evaluation
        better = trainer.evaluate(self.interruption.check)
        now = trainer.now
        if better:
            self._save_weights(self.folder.best, {"valid": self.with_units(now.valid), **domain})
        if now.valid:
            record = {"step": now.step, "seconds": round(trainer.elapsed(), 2), "valid": now.valid}
            self._note(record)
            self.reporter.say(f"step {now.step}: {self._spoken(now.valid)}{' (best)' * better}")
        self._save()
        if time.monotonic() - self.drawn_at > PICTURE_SECONDS:
            self._draw()

    def _domain(self) -> dict[str, FactsRecord]:
        """What a checkpoint says of the training structures; looked at once."""
        if self.facts is None and self.group.is_main:
            self.facts = self.trainer.task.domain(self.interruption.check)
        return {} if self.facts is None else {"domain": self.facts}

    def _note(self, record: Mapping[str, object]) -> None:
        if self.group.is_main:
            self.metrics.append(record)
        if self.events is not None:
            self.events.add(record)

    def _spoken(self, errors: Mapping[str, float]) -> str:
        """The errors in one line: the decisive one, then at most a dozen others."""
        units = self.trainer.task.units
        names = [self.trainer.task.metric, *(n for n in errors if n != self.trainer.task.metric)]
        return ", ".join(f"{n} {errors[n]:.5g} {units.get(n, '')}".strip() for n in names[:13])

    def with_units(self, errors: Mapping[str, float]) -> dict[str, Measured]:
        """``{name: {"value", "unit"}}`` of errors by name."""
        units = self.trainer.task.units
        return {name: {"value": v, "unit": units.get(name, "")} for name, v in errors.items()}

    def _save_due(self) -> bool:
        settings, step = self.trainer.settings, self.trainer.now.step
        if settings.save_steps and step % settings.save_steps == 0:
            return True
        return time.monotonic() - self.saved_at >= settings.save_seconds

    def _save(self) -> None:
        """Writes last weights, then the state that vouches for them."""
        if self.group.is_main:
            self._save_weights(self.folder.last, {})
            checkpoint.save_state(self.folder.state, self.trainer.state())
        self.saved_at = time.monotonic()

    def _save_weights(self, path: Path, more: Mapping[str, object]) -> None:
        self.trainer.verify()
        if not self.group.is_main:
            return
        meta = {
            **self.trainer.task.meta,
            "training": {**self.settings, "step": self.trainer.now.step},
            **more,
        }
        with self.trainer.eval_mode() as model:
            checkpoint.save(path, self.name, model, meta)

    def _draw(self) -> None:
        task = self.trainer.task
        unit = task.units.get(task.metric, "")
        if self.group.is_main:
            picture(self.metrics, self.folder["loss.png"], task.metric, unit)
        self.drawn_at = time.monotonic()

    def _test(self) -> dict[str, float]:
        """Tests the best weights (the last where nothing was validated); they say so, and how far
        off they may be, from then on."""
        trainer = self.trainer
        # Where nothing was validated, what lies there as best is the end of an earlier sitting.
        source = self.folder.best if trainer.now.best_step >= 0 else self.folder.last
        meta, tensors = self.group.broadcast(
            checkpoint.load_file(source) if self.group.is_main else None
        )
        with trainer.eval_mode() as model:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            checkpoint.restore(model, without(tensors), source)
            try:
                errors = trainer.task.evaluate("test", model, self.interruption.check, self.group)
                calibration = trainer.task.calibrate(model, self.interruption.check)
            except (RuntimeError, MemoryError) as error:
                trainer.explain(error)
                raise
            finally:
                model.load_state_dict(weights)
        plain = {k: v for k, v in meta.items() if k not in ("sha256", "format", "kind")}
        header = {**plain, **self._domain(), "test": self.with_units(errors)}
        if self.group.is_main:
            known = without(tensors) | calibration
            checkpoint.write(self.folder.best, "weights", header, known)
        return errors
