"""The two consoles: results go to stdout, messages and progress to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """Results. Into a pipe or a file, lines are never wrapped."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """Messages and progress."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())
