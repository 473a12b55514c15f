"""A progress bar on stderr while something is counted; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int], None]  # told how many are done


@contextmanager
def counted(title: str, total: int | None) -> Iterator[Tick]:
    """Yield a function that is told how many of ``total`` are done; silent off a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from neupol_cli.console import stderr

    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # What another thread prints meanwhile keeps its stream.
    with Progress(
        *columns, console=stderr(), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
