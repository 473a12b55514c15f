"""Everything that a report of a fault needs, whatever part of the installation is broken.

Each part is asked for by itself: one that cannot be had says why, and the others are there.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from neupol_cli import __version__, threads
from neupol_cli.errors import NeupolError
from neupol_cli.info import hardware, packages
from neupol_cli.info.fact import Fact

PROBE = "activation.cpp"  # a kernel that needs no sizes of a network, built to see whether it can


def facts() -> dict[str, Fact]:
    """Every part by its name, in order."""
    return {name: _attempted(part) for name, part in PARTS.items()}


def _attempted(part: Callable[[], Fact]) -> Fact:
    try:
        return part()
    except Exception as error:  # broken installations raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Fact({"error": reason}, f"not usable: {reason}")


def _neupol() -> Fact:
    folder = str(Path(__file__).parents[1])
    return Fact({"version": __version__, "folder": folder}, f"{__version__} in {folder}")


def _python() -> Fact:
    record = {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
    }
    return Fact(record, "{implementation} {version} on {platform}".format(**record))


def _torch() -> Fact:
    """PyTorch's build: what it was compiled for and with."""
    import torch

    gpus = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    gpu = next((f"{name} {found}" for name, found in gpus.items() if found), None)
    instructions = torch.backends.cpu.get_cpu_capability()
    known = {"MKL": torch.backends.mkl, "oneDNN": torch.backends.mkldnn}
    libraries = [name for name, library in known.items() if library.is_available()]
    record = {
        "version": torch.__version__,
        "gpu": gpu,
        "instructions": instructions,
        "libraries": libraries,
    }
    words = [torch.__version__, f"built for {gpu or 'CPUs only'}", instructions, *libraries]
    return Fact(record, ", ".join(words))


def _threads() -> Fact:
    """How many work, and what bounds them."""
    found = threads.limits()
    bounds = [
        f"may run on {found.cores} cores",
        f"control groups give {'all of them' if found.quota is None else found.quota}",
        f"OMP_NUM_THREADS {'unset' if found.openmp is None else found.openmp}",
    ]
    if found.processes > 1:
        bounds.append(f"shared by {found.processes} processes")
    record = {"threads": found.threads, **asdict(found)}
    return Fact(record, f"{found.threads}: {', '.join(bounds)}")


def _matrices() -> Fact:
    from neupol_cli.models.nn import linear

    chosen = linear.chosen()
    return Fact({"library": chosen}, f"{chosen} multiplies them in float32")


def _compiler() -> Fact:
    from neupol_cli.models.kernels import compiler

    path = compiler.found()
    if path is None:
        wanted = os.environ.get("CXX", "c++")
        return Fact({"path": None, "version": None}, f"none called {wanted}")
    asked = [path, "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    version = (done.stdout or done.stderr).strip().partition("\n")[0]
    return Fact({"path": path, "version": version}, f"{path}: {version}")


def _kernels() -> Fact:
    """Where they are kept, and whether one of them is built and loaded."""
    from neupol_cli.models.kernels import compiler

    with _warnings() as said:
        folder = compiler.folder()
        loaded = compiler.library(compiler.HEADERS / PROBE, {"REAL": "float"}) is not None
    state = "work" if loaded else "do not work; PyTorch computes the same, slower"
    if compiler.found() is None:
        state = "not built, for there is no compiler; PyTorch computes the same, slower"
    if not compiler.enabled():
        state = "are switched off by NEUPOL_KERNELS=0"
    kept = "nowhere" if folder is None else str(folder)
    record = {
        "work": loaded,
        "enabled": compiler.enabled(),
        "folder": None if folder is None else kept,
        "warnings": said,
    }
    return Fact(record, "; ".join([state, f"kept: {kept}", *said]))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What kernels say meanwhile, which would else go to stderr."""
    said: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("neupol")
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _models() -> Fact:
    """Each bundled model, its size, and whether its checksum agrees."""
    from neupol_cli.bundled import bundled

    record, listed = {}, []
    for name, path in bundled().items():
        size, state = path.stat().st_size, _state(path)
        record[name] = {"bytes": size, "checksum": state}
        listed.append(f"{name} {size / 1e6:.2f} MB {state}")
    return Fact(record, ", ".join(listed) or "none")


def _state(path: Path) -> str:
    try:
        from neupol_cli import checkpoint
    except Exception:  # which `torch` explains
        return "not checked"
    try:
        checkpoint.read(path, "weights")
    except NeupolError as error:
        return f"DAMAGED ({error})"
    return "ok"


PARTS: dict[str, Callable[[], Fact]] = {
    "neupol": _neupol,
    "python": _python,
    "packages": packages.needed,
    "optional": packages.optional,
    "torch": _torch,
    "threads": _threads,
    "cpu": hardware.cpu,
    "matrices": _matrices,
    "gpu": hardware.gpu,
    "compiler": _compiler,
    "kernels": _kernels,
    "models": _models,
}
