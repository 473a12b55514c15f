"""Which of ChargE3Net's kernels serve: the one place where that is decided."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.kernels import compiler

# Degrees whose harmonics the probe kernel has written out.
LMAX = 4


class Kernels(NamedTuple):
    """What may stand in for the formulas.

    Attributes:
        tables: R(r) from tables (radial_tables.py).
        probe_sums: all that a probe's edges need, in one Triton kernel (probe_sums.py).
    """

    tables: bool
    probe_sums: bool


def kernels(like: Tensor, lmax: int) -> Kernels:
    """The kernels for features like these.

    Tables are for float32: in float64 every function is evaluated at every edge, a check of the
    rest. The probe kernel reads tables, has no derivatives, and wants a GPU and Triton;
    TRITON_INTERPRET=1 runs it on a CPU, for tests.

    Args:
        like: of the type and on the device of the features.
        lmax: of the harmonics.
    """
    if not compiler.enabled():
        return Kernels(tables=False, probe_sums=False)
    tables = like.dtype == torch.float32
    return Kernels(tables=tables, probe_sums=tables and _triton(like, lmax))


def _triton(like: Tensor, lmax: int) -> bool:
    if lmax > LMAX or torch.is_grad_enabled():
        return False
    runs = like.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
