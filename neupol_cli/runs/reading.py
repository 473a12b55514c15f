"""What a run folder of `neupol fit` tells of its training, and by which options runs differ."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from neupol_cli import checkpoint, provenance
from neupol_cli.errors import InputError, NeupolError
from neupol_cli.io import files
from neupol_cli.models.base import Header, Measured
from neupol_cli.options import OnError
from neupol_cli.training.options import spelled
from neupol_cli.training.run import Folder, RunConfig
from neupol_cli.training.runlog import Line, Metrics
from neupol_cli.validation import mismatch

SHOWN = {"model", "preset", "target", "data"}  # the first three always, data by their checksum
DIGITS = 8  # of a checksum


class Record(TypedDict):
    """A run as JSON; times in minutes, errors by name."""

    run: str
    network: str
    preset: str | None
    targets: list[str]
    steps: int
    epochs: float | None
    minutes: float
    valid: dict[str, Measured]
    test: dict[str, Measured]
    options: dict[str, object]


@dataclass(frozen=True)
class TrainingRun:
    """A run that nobody is writing.

    Attributes:
        name: its folder, as the user typed it.
        config: its config.json.
        lines: of its metrics.jsonl, at least one.
        header: of its best weights, or of the last ones where none were validated.
    """

    name: str
    config: RunConfig
    lines: Sequence[Line]
    header: Header

    @classmethod
    def read(cls, name: str) -> TrainingRun:
        """
        Raises:
            InputError: the folder holds no run of `neupol fit`, or one without a step.
            TemporaryError: the run is at work.
            CheckpointError, StorageError: its weights are damaged, or cannot be read.
        """
        folder = Folder(Path(name))
        if not folder["config.json"].is_file():
            raise InputError(f"{name}: holds no run of `neupol fit`")
        with files.locked_folder(folder.path):
            config = folder.read_config()
            lines = _lines(folder["metrics.jsonl"])
            weights = folder.best if folder.best.exists() else folder.last
            header, _ = checkpoint.load_file(weights)
        provenance.inputs(folder["config.json"], folder["metrics.jsonl"], weights)
        return cls(name, config, lines, header)

    @property
    def differing(self) -> dict[str, object]:
        """What may differ from other runs: name, as the command line spells it -> value."""
        options = self.config["options"]
        plain = {spelled(key): options[key] for key in options if key not in SHOWN}
        return {"DATA": f"{Path(options['data']).name} {self.fingerprint}"} | plain

    @property
    def fingerprint(self) -> str:
        """The first digits of that of the data."""
        return self.config["fingerprint"][:DIGITS]

    def record(self, options: Iterable[str]) -> Record:
        """Everything that is compared, of the options those that are named."""
        epochs = [line["epoch"] for line in self.lines if "epoch" in line]
        return {
            "run": self.name,
            "network": self.config["options"]["model"],
            "preset": self.config["options"]["preset"],
            "targets": list(self.header.get("targets", {})),
            "steps": self.lines[-1]["step"],
            "epochs": epochs[-1] if epochs else None,
            "minutes": self.lines[-1].get("seconds", 0.0) / 60.0,
            "valid": self.header.get("valid", {}),
            "test": self.header.get("test", {}),
            "options": {name: self.differing.get(name) for name in options},
        }


def _lines(path: Path) -> list[Line]:
    lines = Metrics(path).lines()
    if not lines:
        raise InputError(f"{path.parent}: the run has logged no step")
    for number, line in enumerate(lines, 1):
        if problem := mismatch(line, Line, ""):
            raise InputError(f"{path}:{number}: {problem}")
    return lines


def read(names: Iterable[str], on_error: OnError) -> list[TrainingRun]:
    """The runs of these folders.

    Raises:
        InputError: none is left; for one that is none, and others as `TrainingRun.read`, unless
            these are skipped.
    """
    runs = list(_read(names, on_error))
    if not runs:
        raise InputError("no run is left to show")
    return runs


def _read(names: Iterable[str], on_error: OnError) -> Iterator[TrainingRun]:
    for name in names:
        try:
            yield TrainingRun.read(name)
        except NeupolError as error:
            if on_error is OnError.fail:
                raise
            print(f"neupol: {error} (skipped)", file=sys.stderr)


def different(options: Sequence[Mapping[str, object]]) -> list[str]:
    """The names whose values are not everywhere the same."""
    names = dict.fromkeys(name for one in options for name in one)
    first = options[0]
    return [n for n in names if any(one.get(n) != first.get(n) for one in options)]
