"""Loops of our own in C++, built where they run: many steps of arithmetic in one pass over memory.

PyTorch walks through memory once for each operation. Where that is what a network's time goes
into, a file of C++ here does a whole formula while its numbers are in the first cache.
:func:`library` has the machine's own compiler build it, for this machine's vector units and for
the sizes of this network, which takes a second or two, and keeps the result for later processes.

Nothing depends on it: every caller has the same formula in PyTorch's operations too, and takes it
where there is no compiler, where it fails, or where the environment says ``NEUPOL_FUSED=0``. The
compiler is ``$CXX``, or else ``c++``; what it made lies under ``$XDG_CACHE_HOME/neupol`` (or
``~/.cache/neupol``), under a name that tells sources, sizes, compiler and processor apart. Without
a home, each process builds its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HERE = Path(__file__).parent  # the sources
# Vectorised and with fused multiply-adds, as PyTorch's own loops are, but no operation is moved
# across another one and no number is taken to be finite.
COMMON = ("-shared", "-fPIC", "-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math")
REALS = {"torch.float32": "float", "torch.float64": "double"}
SECONDS = 120  # for a compiler at work on a file
# What to try, best first: not every compiler knows this machine or has OpenMP's threads.
ATTEMPTS = (("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd"), ())


def library(source: Path, defines: Mapping[str, str | int]) -> ctypes.CDLL | None:
    """A C++ file built with ``-DNAME=VALUE`` for each of ``defines``, loaded; None if it cannot be.

    Each is built once a machine and loaded once a process.
    """
    if os.environ.get("NEUPOL_FUSED") == "0":
        return None
    return _loaded(source, tuple(f"-D{name}={value}" for name, value in defines.items()))


def library_for(source: Path, like: Tensor, defines: Mapping[str, str | int]) -> ctypes.CDLL | None:
    """The same with ``REAL`` for numbers ``like`` these, float32 or float64 on a CPU; else None."""
    real = REALS.get(str(like.dtype))
    if real is None or like.device.type != "cpu":
        return None
    return library(source, {"REAL": real, **defines})


@cache
def _loaded(source: Path, defines: tuple[str, ...]) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    name, folder = f"{source.stem}-{_fingerprint(source, defines, compiler)}.so", _folder()
    if folder is not None and _whole(folder / name):
        return _opened(folder / name)
    with tempfile.TemporaryDirectory() as place:
        built = _built(compiler, source, defines, Path(place) / name)
        if built is None:
            return None
        return _opened(built if folder is None else _kept(built, folder / name))


def _opened(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _whole(path: Path) -> bool:
    """Whether a file ends in the digest of the rest: half a library would end the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content[-32:] == _digest(content[:-32])


def _built(compiler: str, source: Path, defines: tuple[str, ...], into: Path) -> Path | None:
    said = ""
    for attempt in ATTEMPTS:
        command = [compiler, *COMMON, *attempt, *_wide(), *defines, str(source), "-o", str(into)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            break
        if done.returncode == 0:
            return into
        said = done.stderr.decode(errors="replace")
    _warn(compiler, source, said)
    return None


def _warn(compiler: str, source: Path, said: str) -> None:
    """Says why this process will be slower than it could be: a compiler is there and fails."""
    reason = (said.strip().splitlines() or ["no reason given"])[0]
    logging.getLogger("neupol").warning(
        "%s does not build %s (%s); PyTorch computes the same, slower",
        compiler,
        source.name,
        reason,
    )


def _wide() -> tuple[str, ...]:
    """Compilers are shy of 512-bit vectors, which early processors slowed down for."""
    return ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()


def _kept(built: Path, kept: Path) -> Path:
    """Moves the library to where later processes find it; where it is, if that is not allowed."""
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=kept.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                content = built.read_bytes()
                file.write(content + _digest(content))
            os.replace(partial, kept)  # whole or not at all, whoever else is at it
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)
    except OSError:
        return built
    return kept


def _folder() -> Path | None:
    """Where libraries are kept for later processes; None for a user who has no home."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "neupol"
    except RuntimeError:  # no $HOME, and the user is in no list of users: so in many containers
        return None


def _fingerprint(source: Path, defines: tuple[str, ...], compiler: str) -> str:
    """Changes with whatever the built library depends on."""
    program = os.stat(compiler)
    told = (COMMON, ATTEMPTS, _wide(), defines, compiler, program.st_size, program.st_mtime_ns)
    files = (source, *sorted(source.parent.glob("*.h")))
    known = b"".join(each.read_bytes() for each in files) + repr((told, _processor())).encode()
    return hashlib.sha256(known).hexdigest()[:24]


def _processor() -> tuple[str, ...]:
    """What the machine calls its processor and its vector units: a home may serve several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return (platform.machine(), platform.processor())
    known = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU "))}
    return (platform.machine(), *sorted(known))
