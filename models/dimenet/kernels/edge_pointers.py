"""What edge_layers.cpp is given, in the order in which its structures have it."""

from __future__ import annotations

import ctypes


class LayerPointers(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("inputs", "outputs", "of", "skip")),
        *((name, ctypes.c_void_p) for name in ("weight", "turned", "bias", "factor", "across")),
        *((name, ctypes.c_void_p) for name in ("z", "by_y", "by_z")),
        *((name, ctypes.c_void_p) for name in ("by_weight", "by_bias", "by_factor")),
    )


class EdgePointers(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("edges", "layers", "threads")),
        *((name, ctypes.c_long) for name in ("first", "second", "numbers", "wide")),
        *((name, ctypes.c_void_p) for name in ("y_0", "y_1", "radial", "along")),
        *((name, ctypes.c_void_p) for name in ("by_0", "by_1", "by_radial")),
    )
