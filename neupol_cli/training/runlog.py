"""What a run says while it works: metrics.jsonl, loss.png, and progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypedDict, cast

from neupol_cli import figures
from neupol_cli.io import files

QUIET_SECONDS = 30.0  # between two plain progress lines
PICTURE_SECONDS = 60.0  # between two drawings of loss.png


class Line(TypedDict, total=False):
    """A line of metrics.jsonl: of a step, of its training loss or of its validation."""

    step: int
    epoch: float
    seconds: float
    loss: float
    valid: dict[str, float]


class Metrics:
    """An append-only file of JSON lines, each with its ``step``.

    A line is one write, so a killed run leaves at most one broken line, at the end; `rewind` drops
    it together with everything beyond the step from which the run goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Keeps the lines up to ``step``, atomically; a run that starts anew rewinds to -1."""
        lines = [line for line in self.lines() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with files.atomic(self.path) as partial:
            partial.write_text(text)

    def append(self, record: Mapping[str, object]) -> None:
        """Adds one line."""
        with files.reported(self.path), self.path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def lines(self) -> list[Line]:
        """All whole lines."""
        if not self.path.exists():
            return []
        lines: list[Line] = []
        for line in self.path.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # only ever the last one: cut off by a kill
                break
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                break
            lines.append(cast(Line, record))
        return lines


def picture(metrics: Metrics, path: Path, metric: str, unit: str) -> None:
    """Draws the training loss and the validation error over the steps, on log axes; nothing before
    the first step is logged."""
    import matplotlib.figure

    lines = [line for line in metrics.lines() if line["step"]]  # there is no zero on a log axis
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    if not training:
        return
    valid = [(x["step"], x["valid"][metric]) for x in lines if metric in x.get("valid", {})]
    # A Figure of its own, not pyplot's: no global state, no window system.
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    left = figure.subplots()
    left.set(xlabel="step", ylabel="training loss (standardised)", xscale="log", yscale="log")
    left.plot(*zip(*training, strict=True), color="tab:blue", linewidth=0.8, alpha=0.8)
    left.yaxis.label.set_color("tab:blue")
    right = left.twinx()
    right.set(ylabel=f"validation {metric}" + (f" / {unit}" if unit else ""), yscale="log")
    if valid:
        right.plot(*zip(*valid, strict=True), color="tab:red", marker=".", linewidth=1.2)
    right.yaxis.label.set_color("tab:red")
    figures.save(figure, path, dpi=130)


class Reporter(Protocol):
    """Somewhere to say how a run is getting on."""

    def training(self, fraction: float, text: str) -> None:
        """The run is at ``fraction`` of its limit."""

    def say(self, text: str) -> None:
        """A line worth keeping."""

    def close(self) -> None:
        """No more will come."""


class Silence:
    """Of several ranks, all but the first."""

    def training(self, fraction: float, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """Plain lines on stderr: for log files and pipes."""

    def __init__(self) -> None:
        self.last = time.monotonic() - QUIET_SECONDS

    def training(self, fraction: float, text: str) -> None:
        if time.monotonic() - self.last >= QUIET_SECONDS:
            self.say(f"{100 * fraction:5.1f} %  {text}")

    def say(self, text: str) -> None:
        self.last = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        sys.stderr.flush()


class Bar:
    """A bar with an estimate of the time left: for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        columns = (BarColumn(), TextColumn("{task.percentage:5.1f} %"), TimeElapsedColumn(), Left())
        console = Console(stderr=True)
        self.progress = Progress(*columns, TextColumn("{task.description}"), console=console)
        self.bar = self.progress.add_task("starting", total=1.0)
        self.progress.start()

    def training(self, fraction: float, text: str) -> None:
        self.progress.update(self.bar, completed=min(fraction, 1.0), description=text)

    def say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self.progress.stop()


def reporter() -> Reporter:
    """A bar on a terminal, plain lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()
