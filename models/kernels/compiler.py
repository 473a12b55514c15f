"""C++ kernels: how they are built where they run, and when a network may use them.

PyTorch walks through memory once for each operation. Where that is what a network's time goes
into, a kernel does a whole formula in one pass while its numbers are in the first cache.

Built: :func:`library` has the machine's own compiler (``$CXX``, or else ``c++``) build one file for
this machine's vector units and for the sizes of this network, which takes a second or two. The
result lies under ``$XDG_CACHE_HOME/neupol`` (or ``~/.cache/neupol``) for later processes, under a
name that tells sources, sizes, compiler and processor apart; without a home, or where others can
write to that folder, each process builds its own. Attempts go from this processor's instructions
and OpenMP's threads to neither.

Chosen: nothing depends on a kernel. Every caller has the same formula in PyTorch's operations, and
takes it where :func:`library` answers None: there is no compiler, it fails, or the environment says
``NEUPOL_KERNELS=0``. Each network decides in one function of its own, by device, type and sizes.
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
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HEADERS = Path(__file__).parent  # what sources of several networks include
# Vectorised and with fused multiply-adds, as PyTorch's own loops are, but no operation is moved
# across another one and no number is taken to be finite.
COMMON = ("-shared", "-fPIC", "-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math")
REALS = {"torch.float32": "float", "torch.float64": "double"}
_LOADING = Lock()
TIMEOUT = 120  # seconds for a compiler at work on a file
# What to try, best first: not every compiler knows this machine or has OpenMP's threads.
ATTEMPTS = (("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd"), ())


def enabled() -> bool:
    """Whether the environment leaves kernels switched on."""
    return os.environ.get("NEUPOL_KERNELS") != "0"


def found() -> str | None:
    """The compiler's path; None where there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def folder() -> Path | None:
    """Where libraries are kept for later processes; None where nothing may be kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "neupol"
    except RuntimeError:  # no $HOME, and the user is in no list of users: so in many containers
        return None
    return folder if _is_private(folder) else None


def library(source: Path, defines: Mapping[str, str | int]) -> ctypes.CDLL | None:
    """A C++ file as a shared library, built once a machine and loaded once a process.

    Args:
        source: the file.
        defines: NAME -> VALUE of each ``-DNAME=VALUE``.

    Returns:
        The library; None if kernels are switched off, or it cannot be built.
    """
    if not enabled():
        return None
    with _LOADING:  # threads that need the same library at the same time build it once
        return _load(source, tuple(f"-D{name}={value}" for name, value in defines.items()))


def library_for(source: Path, like: Tensor, defines: Mapping[str, str | int]) -> ctypes.CDLL | None:
    """The same with ``REAL`` for numbers ``like`` these, float32 or float64 on a CPU; else None."""
    real = REALS.get(str(like.dtype))
    if real is None or like.device.type != "cpu":
        return None
    return library(source, {"REAL": real, **defines})


@cache
def _load(source: Path, defines: tuple[str, ...]) -> ctypes.CDLL | None:
    compiler = found()
    if compiler is None:
        return None
    name, kept = f"{source.stem}-{_fingerprint(source, defines, compiler)}.so", folder()
    if kept is not None and _is_intact(kept / name):
        return _open(kept / name)
    with tempfile.TemporaryDirectory() as scratch:
        built = _build(compiler, source, defines, Path(scratch) / name)
        if built is None:
            return None
        return _open(built if kept is None else _keep(built, kept / name))


def _open(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_intact(path: Path) -> bool:
    """Whether a file ends in the digest of the rest: half a library would end the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content[-32:] == _digest(content[:-32])


def _build(compiler: str, source: Path, defines: tuple[str, ...], target: Path) -> Path | None:
    message = ""
    for attempt in ATTEMPTS:
        command = [
            compiler,
            *COMMON,
            *attempt,
            *_vector_width(),
            *defines,
            f"-I{HEADERS}",
            str(source),
        ]
        command += ["-o", str(target)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            message = str(error)
            break
        if done.returncode == 0:
            return target
        message = done.stderr.decode(errors="replace")
    _warn(compiler, source, message)
    return None


def _warn(compiler: str, source: Path, message: str) -> None:
    """Says why this process will be slower than it could be: a compiler is there and fails."""
    reason = (message.strip().splitlines() or ["no reason given"])[0]
    logging.getLogger("neupol").warning(
        "%s does not build %s (%s); PyTorch computes the same, slower",
        compiler,
        source.name,
        reason,
    )


def _vector_width() -> tuple[str, ...]:
    """Compilers are shy of 512-bit vectors, which early processors slowed down for."""
    return ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()


def _keep(built: Path, destination: Path) -> Path:
    """Moves the library to where later processes find it; where it is, if that is not allowed."""
    try:
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=destination.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                content = built.read_bytes()
                file.write(content + _digest(content))
            os.replace(partial, destination)  # whole or not at all, whoever else is at it
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)
    except OSError:
        return built
    return destination


@cache
def _is_private(folder: Path) -> bool:
    """Whether nobody else can put a library there, which would run in this process."""
    try:
        status = folder.stat()
    except OSError:
        return True  # it is not there, and will be made
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not private:
        logging.getLogger("neupol").warning(
            "%s: others can write to it: nothing there is used; chmod 700 makes it faster", folder
        )
    return private


def _fingerprint(source: Path, defines: tuple[str, ...], compiler: str) -> str:
    """Changes with whatever the built library depends on."""
    program = os.stat(compiler)
    settings = (
        COMMON,
        ATTEMPTS,
        _vector_width(),
        defines,
        compiler,
        program.st_size,
        program.st_mtime_ns,
    )
    files = (source, *sorted({*source.parent.glob("*.h"), *HEADERS.glob("*.h")}))
    content = (
        b"".join(file.read_bytes() for file in files) + repr((settings, _processor())).encode()
    )
    return hashlib.sha256(content).hexdigest()[:24]


def _processor() -> tuple[str, ...]:
    """What the machine calls its processor and its vector units: a home may serve several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return (platform.machine(), platform.processor())
    relevant = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU "))}
    return (platform.machine(), *sorted(relevant))
