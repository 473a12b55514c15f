"""What can go wrong, and the exit code that each kind of trouble has.

The codes follow sysexits.h where it has a word for it, so that a Makefile or a queue can tell a
bad file (do not retry) from a busy one (retry).
"""

from __future__ import annotations

from neupol_cli.text import printable


class NeupolError(Exception):
    """Trouble that the user can act on: one line, one exit code. Exit code 1 is a bug of ours."""

    code = 1

    def __str__(self) -> str:
        # One line that no terminal obeys, whatever a library or a file put into the text.
        return printable(" ".join(super().__str__().split()))


class UsageError(NeupolError):
    """The command line asks for something that does not exist or does not fit together."""

    code = 2


class InputError(NeupolError):
    """A file or a structure is not what it claims to be: ``file:line: what, and what to do``."""

    code = 65


class StorageError(NeupolError):
    """Reading or writing failed below us (disk full, no permission); earlier files are intact."""

    code = 74


class TemporaryError(NeupolError):
    """Nothing is wrong with the input: out of memory, locked by another process, a lost rank."""

    code = 75


class DivergedError(NeupolError):
    """A loss or an answer is not finite; of a training, the last good checkpoint is still there."""

    code = 76


class CheckpointError(NeupolError):
    """A checkpoint that is damaged, foreign, or not of the format that it claims."""

    code = 78


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on either kind of device."""
    text = str(error).lower()
    exhausted = "can't allocate memory" in text or "out of memory" in text
    return exhausted or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
