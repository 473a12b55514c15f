"""Reading the text of volumetric files: fast for numbers, and never half of them.

A file is taken line by line, or as a block of numbers whose count the header has announced. Each
number goes through Python's own `float`, so that nothing is guessed; what does not fit ends in
InputError with file and line.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import numpy as np

from neupol_cli.errors import InputError, StorageError

_BATCH = 1 << 22  # bytes of text at a time: enough to be fast, little to hold as Python objects
LARGEST = 1 << 62  # of whole numbers: beyond it they are no int64
_EXPONENT = bytes.maketrans(b"Dd", b"Ee")  # Fortran's 1.0D-3
_LOST_E = re.compile(rb"(?<=[0-9.])([+-][0-9]{3})(?![0-9])")  # Fortran's 0.1-100 is 0.1E-100
_NUMBER = re.compile(rb"[+-]?(\d*)\.?(\d*)(?:[Ee]([+-]?\d+)|[+-]\d{3})?\Z")


def open_text(path: Path) -> tuple[BinaryIO, int | None]:
    """The file's bytes and how many there are; with gzip (told by its first bytes, not by its
    name) the bytes come decompressed and their number is not known."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        stream = path.open("rb")
        head = stream.read(2)
        stream.seek(0)
        size = path.stat().st_size
    except OSError as trouble:
        raise StorageError(f"{path}: {trouble.strerror or trouble}") from trouble
    if head == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(stream)), None
    return stream, size


class Lines:
    """A cursor over the lines of one file; every complaint names the file and the line."""

    def __init__(self, stream: BinaryIO, name: str, size: int | None = None) -> None:
        self.stream = stream
        self.name = name
        self.size = size
        self.number = 0  # of the line that was read last
        self._held: deque[bytes] = deque()
        self._whole = True  # the last line read ended in a newline
        self._last: list[bytes] = []

    def wrong(self, why: str, line: int | None = None) -> NoReturn:
        """Raise InputError for the current (or the given) line."""
        raise InputError(f"{self.name}:{self.number if line is None else line}: {why}")

    def next(self, what: str, ended: bool = True) -> str:
        """The next line without its end; `what` was expected there.

        `ended`: a last line without a newline is refused, for it may have been cut.
        """
        line = self._take()
        if line is None:
            self.wrong(f"the file ends where {what} should be (truncated?)", self.number + 1)
        if ended and not self._whole and not self._peek():
            self.wrong(f"the file ends within the line that holds {what} (truncated?)")
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            return line.decode("latin-1").rstrip("\r\n")

    def next_filled(self, ended: bool = True) -> str | None:
        """The next line that is not blank, or None at the end of the file; `ended` as in `next`."""
        while (line := self._peek()) is not None:
            if line.strip():
                return self.next("text", ended)
            self._take()
        return None

    def fields(self, what: str, kinds: str) -> list:
        """The next line as numbers, one letter of `kinds` each: ``i`` whole, ``f`` real."""
        text = self.next(what)
        parts = text.split()
        if len(parts) != len(kinds):
            self.wrong(f"{what} should be {len(kinds)} numbers, found '{text.strip()[:60]}'")
        return [self.number_of(part, kind, what) for part, kind in zip(parts, kinds, strict=True)]

    def number_of(self, text: str, kind: str, what: str) -> int | float:
        """One finite number of `kind` out of `text`."""
        try:
            value = int(text) if kind == "i" else float(_clean(text.encode()))
        except (ValueError, UnicodeEncodeError):
            self.wrong(f"{what}: '{text[:30]}' is not a {'whole ' if kind == 'i' else ''}number")
        finite = abs(value) < LARGEST if kind == "i" else math.isfinite(value)
        if "_" in text or not finite:
            self.wrong(f"{what}: '{text[:30]}' is not a finite number")
        return value

    def numbers(self, count: int, what: str, padded: bool = False) -> np.ndarray:
        """Exactly `count` finite numbers, which end at the end of a line: (count,) float64.

        `padded`: zeros may fill the last line.
        """
        first = self.number + 1
        self._check_possible(count, what)
        parts: list[np.ndarray] = []
        have = 0
        while have < count:
            lines = self._batch()
            if not lines:
                self.wrong(
                    f"{have:,} of {count:,} {what} (from line {first}), then the file ends: "
                    "truncated, or its counts are wrong"
                )
            tokens = b"".join(lines).split()
            if have + len(tokens) > count:
                lines = self._give_back(lines, count - have, what, padded)
                tokens = b"".join(lines).split()[: count - have]
            parts.append(self._floats(lines, tokens, what))
            have += len(tokens)
            self.number += len(lines)
        self._check_last(what)
        return np.concatenate(parts) if parts else np.zeros(0)

    def finish(self) -> None:
        """Nothing but blank lines may follow."""
        rest = self.next_filled()
        if rest is not None:
            self.wrong(f"the file should end here, found '{rest.strip()[:40]}'")

    # -- below: how lines come and go ------------------------------------------------------------

    def _read(self, call: object, *arguments: int) -> bytes | list[bytes]:
        try:
            return call(*arguments)  # type: ignore[operator]
        except EOFError as trouble:
            self.wrong(f"the compressed file is cut short ({trouble})")
        except (gzip.BadGzipFile, zlib.error) as trouble:
            self.wrong(f"the compressed file is damaged ({trouble})")
        except OSError as trouble:
            raise StorageError(f"{self.name}: {trouble}") from trouble

    def _peek(self) -> bytes | None:
        if not self._held:
            line = self._read(self.stream.readline)
            if not line:
                return None
            self._held.append(line)  # type: ignore[arg-type]
        return self._held[0]

    def _take(self) -> bytes | None:
        line = self._peek()
        if line is None:
            return None
        self._held.popleft()
        self.number += 1
        self._whole = line.endswith(b"\n")
        return line[3:] if self.number == 1 and line.startswith(b"\xef\xbb\xbf") else line

    def _batch(self) -> list[bytes]:
        if self._held:
            lines = list(self._held)
            self._held.clear()
            return lines
        return self._read(self.stream.readlines, _BATCH)  # type: ignore[return-value]

    def _give_back(self, lines: list[bytes], wanted: int, what: str, padded: bool) -> list[bytes]:
        """Keep the lines that hold `wanted` numbers; what follows them is for the next reader."""
        for index, line in enumerate(lines):
            words = line.split()
            wanted -= len(words)
            if wanted == 0 or (padded and -len(words) < wanted < 0 and _zeros(words[wanted:])):
                self._held.extend(lines[index + 1 :])
                return lines[: index + 1]
            if wanted < 0:
                self.wrong(f"more {what} than the header announces", self.number + index + 1)
        raise AssertionError("the batch held more numbers than were wanted")

    def _floats(self, lines: list[bytes], tokens: list[bytes], what: str) -> np.ndarray:
        try:
            values = np.fromiter(map(float, tokens), np.float64, len(tokens))
        except ValueError:
            values = self._floats_of_others(lines, tokens, what)
        if not np.isfinite(values).all() or any(b"_" in line for line in lines):
            self._blame(lines, what)
        self._last, self._whole = tokens[-2:], lines[-1].endswith(b"\n")
        return values

    def _floats_of_others(self, lines: list[bytes], tokens: list[bytes], what: str) -> np.ndarray:
        try:
            return np.fromiter((float(_clean(token)) for token in tokens), np.float64, len(tokens))
        except ValueError:
            self._blame(lines, what)

    def _blame(self, lines: list[bytes], what: str) -> NoReturn:
        """Find the line with the token that is no finite number."""
        for line in lines:
            self.number += 1
            for token in line.split():
                self.number_of(token.decode("latin-1"), "f", what)
        raise AssertionError("some token was not a number")

    def _check_possible(self, count: int, what: str) -> None:
        """A count that the file cannot hold is refused before anything is read."""
        if self.size is not None and self.size < 2 * count:
            self.wrong(f"{count:,} {what} announced in a file of {self.size:,} bytes (truncated?)")

    def _check_last(self, what: str) -> None:
        """A file may lack its last newline, but not its last number's last digits."""
        if self._whole:
            return
        shapes = {_shape(_clean(token)) for token in self._last}
        if len(self._last) < 2 or len(shapes) > 1:
            self.wrong(f"the file ends within the last of the {what} (truncated?)")


def _zeros(words: list[bytes]) -> bool:
    return all(word.strip(b"0.+-Ee") == b"" and b"0" in word for word in words)


def _clean(text: bytes) -> bytes:
    """Other programs' ways to write an exponent, as Python's: 1D-3, QM9's 1*^-3, 0.1-100."""
    text = text.translate(_EXPONENT).replace(b"*^", b"E")
    return _LOST_E.sub(rb"E\1", text)


def _shape(token: bytes) -> tuple[int, ...] | None:
    """How many digits a number has behind its point and in its exponent."""
    match = _NUMBER.match(token)
    return None if match is None else tuple(len(part or b"") for part in match.groups()[1:])
