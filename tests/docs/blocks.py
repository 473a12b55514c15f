"""Blocks of code in the pages: found, run as a user at a terminal would, compared.

A page's blocks run in their order, in one folder with the examples, so that a block may use what an
earlier one wrote. In a ```console block a line with a dollar sign is a command, and what follows is
what it prints: messages (stderr), then results (stdout, a terminal of 118 columns). Words are
compared, not spaces: a message may be broken into lines. Numbers are equal within one unit of the
last digit that the page shows; times, rates and sizes of memory may be anything, as may words where
the page has "...". A comment ``<!-- not run: REASON -->`` above a block keeps it from being run.

    python -m tests.docs.blocks docs/start.md ...      # write what the commands of pages print now
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[2]
COLUMNS = 118
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n\s*)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)
MEASURED = {"s", "ms", "min", "GB", "MB", "kB", "probes/s", "structures/s", "steps/s"}
ANYTHING = "..."
STYLE = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins at, its kind, its text, why it is not run."""

    page: Path
    line: int
    kind: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Of a console block, each command and what the page says that it prints."""
        pieces = re.split(r"^\$ ", self.text, flags=re.M)[1:]
        found = []
        for piece in pieces:
            match = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", piece, re.S)
            assert match
            found.append((match[1], match[2]))
        return found


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, m.start("text")), m["kind"], m["text"], m["reason"])
        for m in BLOCK.finditer(text)
    ]


@dataclass(frozen=True)
class Printed:
    """What a command ended with and printed."""

    code: int
    messages: str
    results: str

    @property
    def text(self) -> str:
        return self.messages + self.results


def prepared(folder: Path) -> Path:
    """The folder with what the pages' commands find in a checkout."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def run(command: str, folder: Path, path: str = "") -> Printed:
    """A line for bash, its results on a terminal, its messages not: these would move there.

    Args:
        command: as it is typed.
        folder: where.
        path: folders before those of PATH; without, a stand-in that starts soon is `neupol`.
    """
    reading, terminal = pty.openpty()
    size = struct.pack("HHHH", 50, COLUMNS, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    places = f"{path or warm.folder()}{os.pathsep}{os.environ['PATH']}"
    # The width is the terminal's, and make is nobody's child, whatever started the tests.
    strangers = dict.fromkeys(("COLUMNS", "LINES", "MAKEFLAGS", "MAKELEVEL"))
    changes = {"PATH": places, "TERM": "xterm", **strangers}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=warm.environment(changes),
        stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(terminal)
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(_read, reading)
        _, messages = process.communicate(timeout=warm.PATIENCE)
        return Printed(process.returncode, messages, results.result())


def _read(descriptor: int) -> str:
    """All that is written to the other end of a terminal, until nobody has that open."""
    pieces = []
    with open(descriptor, "rb", buffering=0) as stream:
        while piece := _piece(stream.fileno()):
            pieces.append(piece)
    return STYLE.sub("", b"".join(pieces).decode()).replace("\r\n", "\n")


def _piece(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # a terminal's way of saying that it ends
        return b""


def difference(shown: str, printed: str) -> str:
    """Where what was printed is something else than the page shows; empty where it is not."""
    wanted, words = shown.split(), printed.split()
    place = 0
    for index, word in enumerate(wanted):
        if word == ANYTHING:
            rest = " ".join(wanted[index + 1 :])
            ends = (" ".join(words[start:]) for start in range(place, len(words) + 1))
            return "" if any(not difference(rest, end) for end in ends) else f"no {rest!r}"
        if place >= len(words) or not _same(word, words[place], _unit(wanted, index)):
            got = " ".join(words[place : place + 4]) or "nothing"
            return f"the page shows {' '.join(wanted[index : index + 4])!r}, printed is {got!r}"
        place += 1
    return "" if place == len(words) else f"printed, too: {' '.join(words[place : place + 8])!r}"


def _unit(words: list[str], index: int) -> str:
    """The word behind, without punctuation."""
    return words[index + 1].strip("(),:;") if index + 1 < len(words) else ""


def _same(shown: str, word: str, unit: str) -> bool:
    if shown == word:
        return True
    pattern = r"([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)"
    one, other = re.split(pattern, shown), re.split(pattern, word)
    if one[::2] != other[::2]:
        return False
    if unit in MEASURED:
        return True
    return all(_close(a, b) for a, b in zip(one[1::2], other[1::2], strict=True))


def _close(shown: str, number: str) -> bool:
    """Whole numbers are equal, others within one unit of the last digit shown, or of the sixth of
    those that are shown with all that float32 has."""
    shown, number = shown.replace(",", ""), number.replace(",", "")
    mantissa, _, exponent = shown.partition("e")
    digits = len(mantissa.partition(".")[2])
    if not digits:
        return shown == number
    unit = 10.0 ** (int(exponent or 0) - digits)
    if len(mantissa.strip("-+0.").replace(".", "")) > 9:
        unit = max(unit, 1e-6 * abs(float(shown)))
    return abs(float(shown) - float(number)) < 1.001 * unit


def _now(block: Block, folder: Path) -> Iterator[str]:
    """A console block as it would be today, its messages in lines that a page can hold."""
    for command, shown in block.commands:
        printed = run(command, folder)
        yield f"$ {command}\n"
        if not difference(shown, printed.text):
            yield shown
            continue
        for line in printed.messages.splitlines():
            yield textwrap.fill(line, 110, break_long_words=False, break_on_hyphens=False) + "\n"
        yield "".join(f"{line.rstrip()}\n" for line in printed.results.splitlines())


def rewrite(page: Path) -> None:
    """Writes what the page's commands print now where it says what they print."""
    text = page.read_text()
    with tempfile.TemporaryDirectory() as place:
        folder = prepared(Path(place))
        for block in blocks(page):
            if block.kind == "python" and not block.reason:
                warm.python("-c", block.text, cwd=folder)
            if block.kind == "console" and not block.reason:
                text = text.replace(block.text, "".join(_now(block, folder)), 1)
    page.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name).resolve())
