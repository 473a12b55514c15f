"""How many cores this process may use, and so how many threads work at a time.

The least of: the cores that it may run on (``taskset``, SLURM, cpusets), what control groups give
it of their time (containers, systemd), and ``OMP_NUM_THREADS``; shared with the other processes of
torchrun on this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path("/")
CONTROLLER = "cpu"


def take(wanted: int | None, device: torch.device | None) -> None:
    """Settles how this process computes: on a CPU in pieces on several threads (models/workers.py).

    A GPU's own work is left alone; what is done beside it takes as many threads as ``wanted``.

    Args:
        wanted: what ``--threads`` says, else all that there are.
        device: where networks compute, if there are any.
    """
    from neupol_cli.models import workers

    if device is None or device.type == "cpu":
        workers.use(wanted or available())
    elif wanted is not None:
        import torch

        torch.set_num_threads(wanted)


@dataclass(frozen=True)
class Limits:
    """What bounds the threads of this process.

    Attributes:
        cores: those that it may run on.
        quota: cores' worth of time that control groups give it; None where they give all.
        processes: of torchrun on this machine, which share these.
        openmp: OMP_NUM_THREADS, None where it says nothing.
    """

    cores: int
    quota: int | None
    processes: int
    openmp: int | None

    @property
    def threads(self) -> int:
        """The threads that may work at a time, one at least."""
        cores = self.cores if self.quota is None else min(self.cores, self.quota)
        share = cores // self.processes
        return max(1, share if self.openmp is None else min(share, self.openmp))


def limits(environment: Mapping[str, str] = os.environ, root: Path = ROOT) -> Limits:
    """What bounds them here.

    Args:
        environment: of this process.
        root: of the file system, where control groups are looked up.
    """
    return Limits(
        cores=_cores(),
        quota=min(_quotas(root), default=None),
        processes=_number(environment, "LOCAL_WORLD_SIZE") or 1,
        openmp=_number(environment, "OMP_NUM_THREADS"),
    )


def available(environment: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """The threads that may work at a time, one at least. Arguments as of :func:`limits`."""
    return limits(environment, root).threads


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable that is a positive number, or several with commas, of which the first counts."""
    word = environment.get(name, "").split(",")[0].strip()
    return int(word) or None if word.isdecimal() else None


def _cores() -> int:
    """Those that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[int]:
    """Cores' worth of time that control groups give this process; none where they are not used."""
    for path in _groups(root):
        quota = _read(path / "cpu.max").split() or [  # the second version's, or else the first's
            *_read(path / "cpu.cfs_quota_us").split(),
            *_read(path / "cpu.cfs_period_us").split(),
        ]
        # "max" and -1 are no limit.
        if len(quota) == 2 and all(word.isdecimal() and int(word) for word in quota):
            yield -(-int(quota[0]) // int(quota[1]))


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process' control groups and all those around them."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and CONTROLLER not in controllers.split(","):
            continue
        place = PurePosixPath("/") / path
        bases = [mounts / name for name in (controllers, CONTROLLER)] if controllers else [mounts]
        for base in bases:
            for group in (place, *place.parents):
                yield base / group.relative_to("/")


def _read(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
