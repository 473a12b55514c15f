"""Small XSFs by hand: a crystal, and a grid with each plane once or the first ones again."""

from __future__ import annotations

import numpy as np

STATED = "# values in e/Angstrom^3\n"
# 2 x 2 x 2 points in a cell of 2 x 3 x 4 Angstrom, each plane again at the end: 3 x 3 x 3.
ONCE = np.arange(1.0, 9.0).reshape(2, 2, 2, order="F")  # 1 and 2 along the first vector
SPAN = "2.0 0.0 0.0\n0.0 3.0 0.0\n0.0 0.0 4.0\n"
CRYSTAL = f"CRYSTAL\nPRIMVEC\n{SPAN}PRIMCOORD\n2 1\nHe 0.5 0.5 0.5\n2 1.5 1.5 2.5\n"


def block(values: np.ndarray, span: str = SPAN, origin: str = "0 0 0", name: str = "x") -> str:
    counts = " ".join(map(str, values.shape))
    rows = "\n".join(map(str, values.flatten(order="F")))
    head = f"BEGIN_DATAGRID_3D_{name}\n{counts}\n{origin}\n{span}"
    return (
        f"BEGIN_BLOCK_DATAGRID_3D\nby hand\n{head}{rows}\nEND_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n"
    )


def again(values: np.ndarray) -> np.ndarray:
    """The first planes once more behind the last ones."""
    return np.pad(values, [(0, 1)] * 3, mode="wrap")
