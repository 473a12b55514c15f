"""SIGINT and SIGTERM: the first unwinds what is being done, a second one ends at once.

Unwinding removes half-written files on the way. Imported and installed before anything heavy, so
that a signal in the first second is answered as well. A training takes over while it works
(training/interrupt.py), and ends at a safe place.
"""

from __future__ import annotations

import os
import signal
import sys
from _thread import get_ident
from collections.abc import Sequence
from types import FrameType

TYPE_CHECKING = False  # typing's own is not imported before signals are taken up
if TYPE_CHECKING:
    from sys import UnraisableHookArgs

NUMBERS = (signal.SIGINT, signal.SIGTERM)
_thread: list[int] = []  # the one that answers signals
_received: list[int] = []
_deferred: list[bool] = []  # of each block that is not to be cut in two: whether an end waits


def install() -> None:
    """Takes up both signals, in the main thread of a process that is a command."""
    _thread[:] = [get_ident()]
    for number in NUMBERS:
        signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _raise)
    sys.unraisablehook = _repeat


def _handle(number: int, frame: FrameType | None) -> None:
    if _received and "TORCHELASTIC_RUN_ID" not in os.environ:
        os._exit(128 + number)  # asked twice: nothing more is said or written
    _received.append(number)
    if len(_received) == 1:  # torchrun passes on what the terminal has sent already
        _raise(number, frame)


def _raise(number: int, frame: FrameType | None) -> None:
    if _deferred:
        _deferred[0] = True
    else:
        raise SystemExit(128 + received())


class Deferred:
    """A block that a first signal does not cut in two: it is answered where the block ends.

    For steps that only make sense together, as making a file and seeing to it that it goes again.
    """

    def __enter__(self) -> None:
        if _thread == [get_ident()]:
            _deferred.append(False)

    def __exit__(self, *error: object) -> None:
        if _thread == [get_ident()] and _deferred.pop() and not _deferred:
            raise SystemExit(128 + received())


def _repeat(unraisable: UnraisableHookArgs) -> None:
    """Python drops what is raised in a weak reference's callback or in `__del__`, as every import
    runs some: an end that came there is raised again as soon as they are over."""
    if received() and isinstance(unraisable.exc_value, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(unraisable)


def note(number: int) -> None:
    """Counts a signal that somebody else answers."""
    _received.append(number)


def received() -> int:
    """The first signal that came, 0 if none did."""
    return _received[0] if _received else 0


def final(code: int) -> int:
    """The exit code, given what the command made of its end: after a signal never success, nor a
    bug that a library made of being interrupted."""
    if received() and code not in (128 + number for number in NUMBERS):
        return 128 + received()
    return code


def explain(arguments: Sequence[str]) -> None:
    """Says what to do after a training was stopped before it was one."""
    if "fit" in arguments[:1]:
        name = signal.Signals(received()).name
        print(f"stopped by {name} before a step was made; start it again", file=sys.stderr)
