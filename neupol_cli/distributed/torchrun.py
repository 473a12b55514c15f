"""What torchrun says in the environment: which of its processes this is, and which time it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from neupol_cli.errors import TemporaryError, UsageError

LAUNCHED = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"  # what it sets, all of it
PARENT, BEGAN = 1, 19  # fields of proc_pid_stat(5) behind the name


def rank_and_size() -> tuple[int, int]:
    """(rank, world_size): this process among how many; (0, 1) where nobody says.

    Raises:
        UsageError.
    """
    if not all(os.environ.get(name) for name in LAUNCHED):
        return 0, 1
    rank, world_size, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= world_size:
        raise UsageError(f"RANK={rank} is none of WORLD_SIZE={world_size}")
    if port > 65535:
        raise UsageError(f"MASTER_PORT={port} is no port")
    return rank, world_size


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise UsageError(f"{name}={text} is not a number; torchrun sets it")
    return int(text)


def restarts() -> int:
    """How often torchrun has started this run again after a rank was lost (--max-restarts)."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def launcher() -> str:
    """Which torchrun started this process: host, process and when that began; empty if none did.

    It stays the same when it starts a run again. Between it and this process may stand a script;
    the first of each session (setsid) is the launcher's child.
    """
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return ""
    parent = _of_process(os.getsid(0), PARENT) or str(os.getppid())
    return f"{socket.gethostname()} {parent} {_of_process(int(parent), BEGAN)}".strip()


def _of_process(number: int, field: int) -> str:
    """A field of /proc/NUMBER/stat, counted behind the name; empty where there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[field]


def once(what: str) -> None:
    """TemporaryError where torchrun starts again what may have been printed in part."""
    if restarts():
        raise TemporaryError(f"a process was lost; {what} is not started again by itself: do it")


def alone(what: str) -> None:
    """UsageError where several processes were started for something that one does."""
    if rank_and_size()[1] > 1:
        raise UsageError(f"{what} is done by one process: leave torchrun out")
