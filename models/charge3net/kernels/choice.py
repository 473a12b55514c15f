"""Which of ChargE3Net's kernels serve: the one place where that is decided."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.kernels import compiler

PROBE_LOOPS = Path(__file__).with_name("probe_loops.cpp")
NEIGHBOUR_LOOPS = Path(__file__).with_name("neighbour_loops.cpp")
# Degrees whose harmonics the probe kernel has written out.
LMAX = 4


class Kernels(NamedTuple):
    """What may stand in for the formulas.

    Attributes:
        tables: R(r) from tables (radial_tables.py).
        probe_sums: all that a probe's edges need, in one Triton kernel (probe_sums.py).
        probe_loops: the same on a CPU, compiled (probe_loops.py), or None.
        neighbour_loops: the atoms' products on a CPU, compiled (neighbour_loops.py), or None.
    """

    tables: bool
    probe_sums: bool
    probe_loops: ctypes.CDLL | None
    neighbour_loops: ctypes.CDLL | None


def kernels(like: Tensor, lmax: int) -> Kernels:
    """The kernels for features like these.

    Tables are for float32: in float64 every function is evaluated at every edge, a check of the
    rest. The probe kernels read tables and have no derivatives. Triton's wants a GPU;
    TRITON_INTERPRET=1 runs it on a CPU, for tests.

    Args:
        like: of the type and on the device of the features.
        lmax: of the harmonics.
    """
    if not compiler.enabled():
        return Kernels(False, False, None, None)
    tables = like.dtype == torch.float32
    triton = tables and _triton(like, lmax)
    if torch.is_grad_enabled() or like.device.type != "cpu":
        return Kernels(tables, triton, None, None)
    probes = compiler.library(PROBE_LOOPS, {"LMAX": lmax}) if tables else None
    return Kernels(tables, triton, probes, compiler.library_for(NEIGHBOUR_LOOPS, like, {}))


def _triton(like: Tensor, lmax: int) -> bool:
    if lmax > LMAX or torch.is_grad_enabled():
        return False
    runs = like.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
