"""Makes models/nn/wigner_3j.npz: ``python -m tests.models.nn.wigner_table``."""

from __future__ import annotations

import numpy as np
import torch
from e3nn.o3 import wigner_3j

from neupol_cli.models.nn.wigner import LMAX, TABLE


def make() -> dict[str, np.ndarray]:
    """e3nn's symbols of all ascending degrees up to `LMAX`."""
    return {
        f"{l1}{l2}{l3}": wigner_3j(l1, l2, l3, dtype=torch.float64).numpy()
        for l1 in range(LMAX + 1)
        for l2 in range(l1, LMAX + 1)
        for l3 in range(l2, min(l1 + l2, LMAX) + 1)
    }


if __name__ == "__main__":
    np.savez_compressed(TABLE, **make())
