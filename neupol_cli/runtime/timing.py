"""Measuring what a calculation costs, and how the cost grows with the number of atoms."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np

from neupol_cli.errors import InputError, TemporaryError, out_of_memory

SLOW = 20.0  # seconds: a first run of this length is no warm-up, it counts
LARGE = 8  # the exponent is of the sizes within this factor of the largest; of three at least


Made = TypeVar("Made")


class Environment(TypedDict):
    """What seconds depend on besides the code."""

    processor: str
    cores: int | None
    threads: int
    device: str
    gpu: str | None
    dtype: str
    neupol: str
    torch: str
    pyscf: str | None
    python: str
    system: str


@dataclass(frozen=True)
class Measured:
    """Seconds of each repeat, whether a run before them warmed up, and the highest memory."""

    seconds: list[float]
    warmed_up: bool
    peak_bytes: int

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Seconds between the fastest and the slowest repeat."""
        return max(self.seconds) - min(self.seconds)


@dataclass(frozen=True)
class Fit:
    """seconds = factor atoms^exponent; ``error`` is the exponent's standard error.

    Two points leave no residual, so then there is no error. ``smallest`` and ``largest`` are the
    atoms between which it was fitted.
    """

    exponent: float
    error: float | None
    factor: float
    smallest: int
    largest: int

    def seconds(self, atoms: float) -> float:
        """What a size costs by this fit."""
        return float(self.factor * atoms**self.exponent)


def timed(work: Callable[[], Made], device: str) -> tuple[float, Made]:
    """Seconds of the clock until the device has finished, and the result."""
    synchronise(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - start, result


def synchronise(device: str) -> None:
    """Waits until the device has done what it was given; a CPU has."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def measure(work: Callable[[], float], repeats: int, seconds: float, device: str) -> Measured:
    """Runs ``work``, which answers its own seconds: once to warm up, then ``repeats`` times.

    Ends earlier, but never without a result, when ``seconds`` are over. A first run that is slow,
    or that leaves no time for a second one, is itself the result.
    The highest memory is that since :func:`reset_peak`.
    """
    start = time.monotonic()
    end = start + seconds
    first = work()
    whole = time.monotonic() - start
    if whole > SLOW or time.monotonic() + whole > end:
        return Measured([first], False, peak(device))
    seconds_each = [work()]
    while len(seconds_each) < repeats and time.monotonic() + whole < end:
        seconds_each.append(work())
    return Measured(seconds_each, True, peak(device))


def reset_peak(device: str) -> None:
    """Starts a new highest mark of memory, after what is free has been handed back."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError):  # glibc and Linux have these two; others go without
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Bytes at the highest mark: of this process, or on a GPU those of its tensors."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit(atoms: Sequence[int], seconds: Sequence[float]) -> Fit | None:
    """The power law through the larger sizes, by least squares of the logarithms.

    Small sizes cost what a call costs whatever its size, which would hide the law: only those
    count whose atoms are within a factor of 8 of the largest, and always the largest three.
    None with fewer than two sizes.
    """
    order = np.argsort(atoms)
    n, t = np.asarray(atoms, float)[order], np.asarray(seconds, float)[order]
    if len(np.unique(n)) < 2:
        return None
    first = min(max(len(n) - 3, 0), int(np.searchsorted(n, n[-1] / LARGE)))
    x, y = np.log(n[first:]), np.log(t[first:])
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square
    level = float(y.mean() - slope * x.mean())
    left = y - level - slope * x
    error = float(np.sqrt(left @ left / (len(x) - 2) / square)) if len(x) > 2 else None
    return Fit(slope, error, float(np.exp(level)), int(n[first]), int(n[-1]))


def crossing(one: Fit, other: Fit) -> float | None:
    """The atoms at which both cost the same; None where the laws are parallel or never meet at
    one atom or more."""
    apart = one.exponent - other.exponent
    if abs(apart) < 1e-9:
        return None
    logarithm = np.log(other.factor / one.factor) / apart
    return float(np.exp(logarithm)) if 0 <= logarithm < 50 else None


def exponent(atoms: Sequence[int], amounts: Sequence[float], guess: float) -> float:
    """How an amount grew between the last two sizes, within 1 and 4; the guess before that."""
    if len(atoms) < 2 or atoms[-1] == atoms[-2] or min(amounts[-2:]) <= 0:
        return guess
    grown = np.log(amounts[-1] / amounts[-2]) / np.log(atoms[-1] / atoms[-2])
    return float(np.clip(grown, 1.0, 4.0))


def expected(atoms: Sequence[int], amounts: Sequence[float], size: int, guess: float) -> float:
    """What the next size will take, from those before it; 0 while there is none."""
    if not atoms:
        return 0.0
    return float(amounts[-1] * (size / atoms[-1]) ** exponent(atoms, amounts, guess))


def attempt(work: Callable[[], Made]) -> tuple[Made | None, str]:
    """The result and no reason, or no result and the reason: memory, or a refusal."""
    try:
        return work(), ""
    except (InputError, TemporaryError) as error:
        return None, str(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return None, "out of memory"


def environment(device: str, dtype: str) -> Environment:
    """What the seconds depend on besides the code."""
    import torch

    from neupol_cli import __version__
    from neupol_cli.models.workers import workers

    graphics = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": max(torch.get_num_threads(), workers()),
        "device": device,
        "gpu": graphics,
        "dtype": dtype,
        "neupol": __version__,
        "torch": torch.__version__,
        "pyscf": _version("pyscf"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _processor() -> str:
    """The name that the processor has for itself, where the system tells."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x for x in lines if x.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()
