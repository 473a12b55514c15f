"""The first minutes on a GPU: what is right there, how fast it is, and what a large density takes.

    make gpu                                    # ten minutes, into benchmarks/results/gpu.jsonl
    python benchmarks/gpu.py --run RUN          # and goes on with the training in this run folder

Each part is a process with seconds of its own, so that none that fails or hangs stops the others.
What it says is in the record as soon as it is said, one JSON object a line: a session that is cut
short loses nothing. A training has what is left, is asked to stop (SIGTERM) and saves itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
RECORD = HERE / "results" / "gpu.jsonl"
SECONDS = 600.0
GRACE = 20.0  # seconds in which a part that was asked to stop may save itself


@dataclass(frozen=True)
class Part:
    """A command and how long it may take; without seconds, as long as there is time."""

    name: str
    command: Sequence[str]
    seconds: float | None = None


def own(name: str, seconds: float) -> Part:
    """A part of gpu_parts.py, which is told how long it has."""
    command = [sys.executable, str(HERE / "gpu_parts.py"), name, "--seconds", f"{seconds:g}"]
    return Part(name, command, seconds)


def parts(run: Path | None) -> list[Part]:
    """All of them, in the order of what is wanted first."""
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-v"]
    chosen = [
        Part("tests", [*tests, "--tb=short", str(HERE.parent / "tests" / "test_gpu.py")], 170.0),
        own("waits", 50.0),
        own("rates", 130.0),
        own("density", 130.0),
    ]
    if run is not None:
        fit = [sys.executable, "-m", "neupol_cli", "fit", "-o", str(run), "--resume"]
        chosen.append(Part("fit", [*fit, "--device", "cuda"]))
    return chosen


class Record:
    """A file of JSON lines, each on the disk before the next thing happens."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock, self.start = stream, clock, clock()

    def elapsed(self) -> float:
        """Seconds since the record was begun."""
        return self.clock() - self.start

    def write(self, part: str, content: dict[str, Any]) -> None:
        """One line."""
        line = {"part": part, "at": round(self.elapsed(), 1), **content}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()
        os.fsync(self.stream.fileno())
        print(json.dumps(line), file=sys.stderr, flush=True)


def measured(chosen: Sequence[Part], record: Record, seconds: float, grace: float = GRACE) -> None:
    """Runs the parts one after the other, none beyond its seconds or those that are left."""
    for part in chosen:
        left = seconds - record.elapsed() - grace
        if left <= 0:
            record.write(part.name, {"end": "no time left"})
            continue
        most = left if part.seconds is None else min(part.seconds, left)
        record.write(part.name, {"begins": round(most, 1)})
        for content in said(part, most, grace):
            record.write(part.name, content)


def said(part: Part, seconds: float, grace: float) -> Iterator[dict[str, Any]]:
    """What a part says, line by line, and how it ended."""
    end = time.monotonic() + seconds
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            part.command, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        yield {"end": str(error)}
        return
    lines: Queue[str | None] = Queue()
    assert process.stdout is not None
    Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
    stopped = False
    while (line := _next(lines, end)) is not None:
        if line:
            yield _content(line)
        elif stopped:
            _signal(process, signal.SIGKILL)
            break
        else:  # it is asked to stop, and what it says then is heard
            _signal(process, signal.SIGTERM)
            stopped, end = True, time.monotonic() + grace
    yield {"end": "its time was over" if stopped else f"exit code {process.wait()}"}


def _forward(stream: TextIO, lines: Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(lines: Queue[str | None], end: float) -> str | None:
    """The next line; empty when the time is over, None when there are no more."""
    try:
        return lines.get(timeout=max(0.0, end - time.monotonic()))
    except Empty:
        return ""


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """To the process that was started here, and those that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _content(line: str) -> dict[str, Any]:
    """A line of JSON, or another one as text."""
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"text": line.rstrip()}


def main() -> int:
    """Exit code 2, and one line, where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a training to go on with")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    from neupol_cli.devices import device_named
    from neupol_cli.errors import UsageError
    from neupol_cli.runtime.timing import environment

    try:
        device_named("cuda")
    except UsageError:
        print("gpu: there is no GPU that PyTorch can use here", file=sys.stderr)
        return UsageError.code
    options.record.parent.mkdir(parents=True, exist_ok=True)
    with options.record.open("w") as stream:
        record = Record(stream)
        record.write("machine", dict(environment("cuda", "float32")))
        measured(parts(options.run), record, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
