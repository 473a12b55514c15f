"""Which of DeepDFT's kernels serve: the one place where that is decided."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.kernels import compiler

SOURCE = Path(__file__).with_name("deepdft_edges.cpp")


class Kernels(NamedTuple):
    """What may stand in for the formulas of painn.py and schnet.py.

    Attributes:
        tables: filters may be read from tables.
        library: the compiled sums over edges, or None.
    """

    tables: bool
    library: ctypes.CDLL | None


def kernels(like: Tensor, hidden: int) -> Kernels:
    """The kernels for features like these.

    Tables are for float32: in float64 every function is evaluated at every edge, a check of the
    rest. The compiled loops also want a CPU, and whole vector registers.

    Args:
        like: of the type and on the device of the features.
        hidden: their width H.
    """
    if like.dtype != torch.float32 or not compiler.enabled():
        return Kernels(False, None)
    if like.device.type != "cpu" or hidden % 16:
        return Kernels(True, None)
    return Kernels(True, compiler.library(SOURCE, {"HIDDEN": hidden}))
