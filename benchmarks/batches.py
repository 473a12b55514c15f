"""The molecules that speed is measured on."""

from __future__ import annotations

from pathlib import Path

import h5py
import torch

from neupol_cli.models.nn.graph import Graph


def batch_of(path: Path, size: int) -> Graph:
    """Structures at equal steps through a data file of ``neupol data``."""
    with h5py.File(path) as file:
        offsets = file["offsets"][:]
        chosen = range(0, len(offsets) - 1, (len(offsets) - 1) // size)[:size]
        rows = [slice(offsets[k], offsets[k + 1]) for k in chosen]
        numbers = torch.cat([torch.as_tensor(file["numbers"][r]).long() for r in rows])
        positions = torch.cat([torch.as_tensor(file["positions"][r]).float() for r in rows])
    return Graph.from_arrays(numbers, positions, torch.tensor([r.stop - r.start for r in rows]))
