"""Tensors as the arguments of compiled loops."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def threads() -> ctypes.c_long:
    """How many threads a loop may use."""
    return ctypes.c_long(torch.get_num_threads())


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers begin; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
