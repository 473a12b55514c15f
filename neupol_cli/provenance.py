"""Where an output comes from: neupol's version, the command line, models and inputs by checksum.

    {"neupol": "0.1.0", "command": "neupol predict water.xyz -o water.h5",
     "models": {"qm9": SHA-256}, "inputs": {"water.xyz": SHA-256}}

A command is recorded while it runs: what loads a model or reads a file notes it here, what writes
a file puts the record where its format has a place for it. Names are as the user typed them,
checksums those of whole files (``sha256sum``). There is nothing else of the machine in it and no
time, so that the same command makes the same bytes. From Python there is no command to record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from neupol_cli import __version__

KEY = "provenance"
MOST = 50  # inputs that are named one by one
WIDTH = 80  # characters of a line that programs of old read whole
LONGEST = 100_000  # characters of a command line
CUT = "..."  # ends one that is not whole
DIGITS = 8  # of a checksum where there is no room
STDIN = "-"
# What stands for itself where quotes, backslashes and other alphabets would not be read back.
PLAIN = "".join(set(string.printable[:95]) - set('%"\\'))


class Record(TypedDict):
    """What an output says of itself; an input that was a pipe may have no checksum."""

    neupol: str
    command: str
    models: dict[str, str]
    inputs: dict[str, str | None]


class _Recorder:
    """What a command has loaded and read so far."""

    def __init__(self, words: Sequence[str]) -> None:
        command = shlex.join(["neupol", *words])
        self.command = command if len(command) <= LONGEST else command[:LONGEST] + CUT
        self.models: dict[str, str] = {}
        self.inputs: dict[str, str | None] = {}
        self.pipes: dict[str, str] = {}
        self.said = False  # whether an object of JSON has it
        self.typed: dict[str, str] = {}
        self.learn(words)

    def learn(self, words: Iterable[str]) -> None:
        """Notes how the user spells paths."""
        self.typed |= {os.path.abspath(word): word for word in words}

    def spelled(self, name: str) -> str:
        """A path as the user typed it, however the code calls it by now."""
        return self.typed.get(os.path.abspath(name), name)

    def record(self, pipes: Mapping[str, str]) -> Record:
        """``pipes``: checksums of those that count as read."""
        inputs = dict(sorted({**self.inputs, **pipes}.items()))
        if len(inputs) > MOST:
            inputs = {f"{len(inputs)} files": combined(inputs.values())}
        models = dict(sorted(self.models.items()))
        return {"neupol": __version__, "command": self.command, "models": models, "inputs": inputs}


_recorders: list[_Recorder] = []  # of this process; a second one while a command is run again


@contextmanager
def recording(words: Sequence[str]) -> Iterator[None]:
    """A command line (without ``neupol``) that is run meanwhile."""
    _recorders.append(_Recorder(words))
    try:
        yield
    finally:
        _recorders.pop()


def checksum(path: str | Path) -> str:
    """SHA-256 (hex) of a file as it lies on the disk.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def combined(checksums: Iterable[str | None]) -> str:
    """One checksum of several: the only one, or SHA-256 over them, each on a line."""
    known = [one or "" for one in checksums]
    if len(known) == 1:
        return known[0]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()


def typed(words: Iterable[str]) -> None:
    """Notes words that stand for the command line, such as those of ``--config``."""
    for recorder in _recorders[-1:]:
        recorder.learn(words)


def model(name: str, path: Path) -> None:
    """Notes that a model is loaded.

    Args:
        name: what the user calls it.
        path: its file.

    Raises:
        OSError: it cannot be read.
    """
    for recorder in _recorders[-1:]:
        recorder.models[name] = checksum(path)


def inputs(*names: str | Path) -> None:
    """Notes what is read: files; of a pipe the name only; what is no file stands for itself."""
    for recorder in _recorders[-1:]:
        for name in map(str, names):
            spelled = recorder.spelled(name)
            if spelled in recorder.inputs:
                continue
            if name == STDIN or _is_pipe(name):
                recorder.inputs[spelled] = None
            elif os.path.isfile(name):
                with suppress(OSError):  # which its reader will meet, too
                    recorder.inputs[spelled] = checksum(name)


def _is_pipe(name: str) -> bool:
    path = Path(name)
    return path.is_fifo() or path.is_char_device()  # such as <(command) of a shell


def piped(name: str, digest: str) -> None:
    """Notes the checksum of the text that came through a pipe, when all of it has."""
    for recorder in _recorders[-1:]:
        recorder.pipes[recorder.spelled(name)] = digest


def record() -> Record | None:
    """The record of the command that runs; None where none does."""
    return _recorders[-1].record(_recorders[-1].pipes) if _recorders else None


def item() -> dict[str, object]:
    """The record as an item of a JSON object; none where no command runs."""
    found = record()
    return {} if found is None else {KEY: found}


def stamped(fields: Mapping[str, object]) -> dict[str, object]:
    """One of several JSON objects, each on a line: the first one of a command carries the record.

    Pipes have no checksum in it: how much of them was read by then is chance.
    """
    if not _recorders or _recorders[-1].said:
        return dict(fields)
    _recorders[-1].said = True
    return {**fields, KEY: _recorders[-1].record({})}


def text() -> str:
    """The record as one line of ASCII; empty where no command runs."""
    found = record()
    return "" if found is None else json.dumps(found)


def marked() -> list[str]:
    """The record for a line of text: ``provenance={...}``, or nothing."""
    return [f"{KEY}={line}"] if (line := text()) else []


def meta() -> str:
    """The record as an element for the head of a page, or nothing."""
    from html import escape

    return f'<meta name="{KEY}" content="{escape(line)}">\n' if (line := text()) else ""


def commented() -> dict[str, object]:
    """The record as an item of an extended xyz comment, its texts in `PLAIN` and percent signs:
    ASE does not escape backslashes."""
    found = record()
    if found is None:
        return {}
    named = {
        "models": {encoded(name): checksum for name, checksum in found["models"].items()},
        "inputs": {encoded(name): checksum for name, checksum in found["inputs"].items()},
    }
    return {KEY: {"neupol": found["neupol"], "command": encoded(found["command"]), **named}}


def encoded(words: str) -> str:
    """Text in `PLAIN`, other characters as percent signs and bytes (``urllib.parse.unquote``)."""
    return quote(words, safe=PLAIN, errors="surrogateescape")


def in_column(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Rows of a table with a last column for the record, which stands in the first row.

    A comment above the header would be taken for the header by many readers, and a second file gets
    lost; a column of text is what every reader of CSV takes.
    """
    cells = iter([KEY, text()])
    for row in rows:
        yield [*row, next(cells, "")] if _recorders else row


def title(words: str) -> str:
    """A title of at most `WIDTH` characters with version and command line.

    Where both have no room the command stands alone, which names structure and options; where it is
    too long for that, the title comes first and what is too much is left out.
    """
    found = record()
    if found is None:
        return words
    command = encoded(found["command"].removeprefix("neupol "))
    whole = f"{words} {found['neupol']}: {command}"
    for line in (whole, f"neupol {found['neupol']}: {command}"):
        if len(line) <= WIDTH:
            return line
    return whole[: WIDTH - len(CUT)] + CUT


def has_room(words: str) -> bool:
    """Whether a title has the whole command line."""
    return not title(words).endswith(CUT)


def beside(path: Path) -> Path:
    """Where the record of a file is that has no room for it."""
    return path.with_name(f"{path.name}.{KEY}")


def with_sums(line: str) -> str:
    """A line with the first digits of the checksums of all models and of all inputs behind it, and
    what they are of where `WIDTH` has room for that."""
    found = record()
    if found is None:
        return line
    models, inputs = _digits(found["models"]), _digits(found["inputs"])
    named = f"{line}, model {models}, input {inputs}"
    return named if len(named) <= WIDTH else f"{line}, {models} {inputs}"


def _digits(checksums: Mapping[str, str | None]) -> str:
    return combined(checksums.values())[:DIGITS] or "-" if checksums else "-"
