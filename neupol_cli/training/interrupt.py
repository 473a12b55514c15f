"""Signals that end a run at the next safe place instead of in the middle of something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType

from neupol_cli import signals

# As signal.signal takes and gives them.
Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupted(Exception):
    """The run was asked to stop, and has. ``code`` is the exit code: 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM is only noted; a second quits at once.

    Not so where ``repeats`` are usual: torchrun passes on what the terminal has sent already, and
    kills who does not end.

    To be entered in the main thread, the only one where Python installs handlers (ValueError).
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, repeats: bool = False) -> None:
        self.repeats, self.number = repeats, 0
        self._earlier: dict[int, Handler] = {}

    def __enter__(self) -> Interruption:
        for number in self.NUMBERS:
            self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        over = self.number and self.repeats  # the end is near, and a repeat may still come
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_IGN if over else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and not self.repeats:
            os._exit(128 + number)  # asked twice: nothing more is written
        self.number = number
        signals.note(number)

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.number:
            raise Interrupted(self.number)
