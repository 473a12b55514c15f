"""The processor, its vector units, and GPUs, as the system names them."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from neupol_cli.info.fact import Fact

# As /proc/cpuinfo calls them, on x86 and on ARM.
VECTOR_UNITS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "amx_tile", "asimd", "sve", "sve2",
)  # fmt: skip
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
PATIENCE = 20  # seconds for a driver that does not answer


def cpu() -> Fact:
    """Model, vector units, and how many cores the machine has."""
    described = _described()
    model = described.get("model name") or platform.processor() or platform.machine()
    flags = described.get("flags", described.get("Features", "")).split()
    units = [unit for unit in VECTOR_UNITS if unit in flags]
    record = {"model": model, "vector_units": units, "cores": os.cpu_count()}
    return Fact(record, f"{model}, {os.cpu_count()} cores; {' '.join(units) or 'vectors unknown'}")


def _described() -> dict[str, str]:
    """What Linux says of its first processor."""
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, its memory with unit, the version of its driver."""

    name: str
    memory: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, {self.memory}" + (f", driver {self.driver}" if self.driver else "")


def gpu() -> Fact:
    """Each GPU that the driver or PyTorch knows, and how many of them PyTorch can use."""
    known, usable = _of_driver(), _of_torch()
    shown = known or usable or []
    record = {
        "devices": [asdict(one) for one in shown],
        "usable": None if usable is None else len(usable),
    }
    if not shown:
        return Fact(record, "none")
    can = "PyTorch cannot be asked" if usable is None else f"PyTorch can use {len(usable)}"
    return Fact(record, "; ".join([*map(str, shown), can]))


def _of_driver() -> list[Gpu]:
    """What NVIDIA's driver says; nothing where it is not there, or fails."""
    if shutil.which(SMI[0]) is None:
        return []
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [Gpu(*row) for row in rows if len(row) == 3]


def _of_torch() -> list[Gpu] | None:
    """What PyTorch can use; None where it cannot be imported."""
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = [torch.cuda.get_device_properties(index) for index in range(count)]
    except Exception:  # a broken installation raises anything; `torch` says what
        return None
    return [Gpu(one.name, f"{one.total_memory // 2**20} MiB", "") for one in found]
