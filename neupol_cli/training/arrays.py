"""A dataset's structures in flat arrays where a model is, so that a batch is slicing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.nn.graph import Graph, ragged


@dataclass(frozen=True)
class Arrays:
    """A dataset on a device: N structures, A atoms, flat."""

    numbers: Tensor  # (A,)
    positions: Tensor  # (A, 3) Angstrom
    offsets: Tensor  # (N + 1,)
    cell: Tensor | None  # (N, 3, 3) Angstrom
    pbc: Tensor | None  # (N, 3)

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> Arrays:
        periodic = dataset.pbc is not None and bool(dataset.pbc.any())

        def put(values: np.ndarray | None, kind: torch.dtype) -> Tensor | None:
            return (
                torch.from_numpy(values).to(device, kind)
                if periodic and values is not None
                else None
            )

        return cls(
            torch.from_numpy(dataset.numbers).to(device),
            torch.from_numpy(dataset.positions).to(device, dtype),
            torch.from_numpy(dataset.offsets).to(device),
            put(dataset.cell, dtype),
            put(dataset.pbc, torch.bool),
        )

    def graph(self, indices: Tensor) -> tuple[Graph, Tensor]:
        """The batch of some structures (b,), and the rows (a,) of their atoms."""
        rows, counts = ragged(self.offsets, indices)
        cell = None if self.cell is None else self.cell[indices]
        pbc = None if self.pbc is None else self.pbc[indices]
        graph = Graph.from_arrays(self.numbers[rows], self.positions[rows], counts, cell, pbc)
        return graph, rows
