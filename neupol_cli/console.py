"""The two consoles: results go to stdout, messages and progress to stderr."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

from neupol_cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """Results. Into a pipe or a file, lines are never wrapped."""
    terminal = sys.stdout.isatty()
    return _console(width=None if terminal else 240, soft_wrap=not terminal)


def stderr() -> Console:
    """Messages and progress."""
    return _console(stderr=True, soft_wrap=not sys.stderr.isatty())


def _console(soft_wrap: bool, width: int | None = None, stderr: bool = False) -> Console:
    """Brackets and colons are a file's or a molecule's own: [nH] is no style, :o: no picture."""
    kind = _escaping()
    return kind(markup=False, emoji=False, soft_wrap=soft_wrap, width=width, stderr=stderr)


@cache
def _escaping() -> type[Console]:
    """A console for which no text commands the terminal, whatever file it came from."""
    from rich.console import Console
    from rich.text import Text

    class Escaping(Console):
        def render_str(self, text: str, **settings: object) -> Text:
            return super().render_str(printable(text, keep="\n"), **settings)  # type: ignore[arg-type]

    return Escaping
