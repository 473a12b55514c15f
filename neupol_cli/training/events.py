"""The lines of metrics.jsonl as TensorBoard's events, where that package is installed.

    metrics.jsonl                                events
    {"step": 50, "loss": 0.4, "lr": 1e-3}        loss and lr at step 50
    {"step": 50, "valid": {"U0": 0.02}}          valid/U0 at step 50

A file of events is made of metrics.jsonl whenever a run begins or goes on, so that it has each step
once, whatever was killed; an earlier one is removed. Numbers are in single precision, which is all
that TensorBoard shows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from neupol_cli.io import files

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

NAMES = "events.out.tfevents.*"  # what TensorBoard looks for
FORMAT = "brain.Event:2"  # the first event of a file says it
APART = {"step", "seconds"}  # which an event has beside its values


class Events:
    """A file of events that grows with metrics.jsonl.

    Args:
        path: the file to write.
        began: seconds since the epoch at which the run would have begun, had it never stopped:
            times are those of work, as in metrics.jsonl.

    Raises:
        ImportError: there is no TensorBoard; see `of`.
        StorageError: the disk is full or refuses.
    """

    def __init__(self, path: Path, began: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path, self.began, self._event = path, began, Event
        with files.reported(path):
            self._records = RecordWriter(path.open("wb"))
        self._write(Event(wall_time=began, file_version=FORMAT))

    @classmethod
    def of(cls, folder: Path, lines: Sequence[Mapping[str, object]], elapsed: float) -> Self | None:
        """A run's events so far; None where there is no TensorBoard.

        Args:
            folder: of the run.
            lines: of its metrics.jsonl.
            elapsed: seconds of work on it.

        Raises:
            StorageError: the disk is full or refuses.
        """
        for earlier in folder.glob(NAMES):
            with files.reported(earlier):
                earlier.unlink()
        if not _usable():
            return None
        now = time.time()
        events = cls(folder / NAMES.replace("*", f"{now:.0f}.neupol"), now - elapsed)
        for line in lines:
            events.add(line)
        return events

    def add(self, line: Mapping[str, object]) -> None:
        """One line of metrics.jsonl.

        Raises:
            StorageError: the disk is full or refuses.
        """
        values = [{"tag": tag, "simple_value": value} for tag, value in scalars(line)]
        moment = self.began + cast(float, line.get("seconds", 0.0))
        self._write(self._event(wall_time=moment, step=line["step"], summary={"value": values}))

    def _write(self, event: Event) -> None:
        with files.reported(self.path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        """No more will come."""
        self._records.close()


def _usable() -> bool:
    """Whether TensorBoard is there; says so where it is, and broken."""
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError:
        return False
    except Exception as error:  # a broken installation raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logging.getLogger("neupol").warning("no events are written: tensorboard fails: %s", reason)
        return False
    return True


def scalars(line: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Tag and value of everything that a line of metrics.jsonl tells of its step."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", error) for part, error in value.items())
        elif name not in APART:
            yield name, cast(float, value)
