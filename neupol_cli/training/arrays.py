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
    """A dataset on a device: N structures, A atoms, flat.

    What decides the sizes of a batch is kept on the host too, so that it need not be asked for.
    """

    numbers: Tensor  # (A,)
    positions: Tensor  # (A, 3) Angstrom
    offsets: Tensor  # (N + 1,)
    counts: Tensor  # (N,) atoms, on the host
    cell: Tensor | None  # (N, 3, 3) Angstrom
    pbc: Tensor | None  # (N, 3)
    periodic: Tensor | None  # (N,) whether a structure is, on the host

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> Arrays:
        periodic = None
        if dataset.pbc is not None and dataset.pbc.any():
            periodic = torch.from_numpy(dataset.pbc.any(1))

        def put(values: np.ndarray | None, kind: torch.dtype) -> Tensor | None:
            return (
                torch.from_numpy(values).to(device, kind)
                if periodic is not None and values is not None
                else None
            )

        return cls(
            torch.from_numpy(dataset.numbers).to(device),
            torch.from_numpy(dataset.positions).to(device, dtype),
            torch.from_numpy(dataset.offsets).to(device),
            torch.from_numpy(dataset.counts),
            put(dataset.cell, dtype),
            put(dataset.pbc, torch.bool),
            periodic,
        )

    def graph(self, indices: Tensor) -> tuple[Graph, Tensor]:
        """The batch of some structures (b,), numbers on the host, and the rows (a,) of their
        atoms."""
        on_host = self.counts[indices]
        chosen = sent(indices, self.positions.device)
        rows, counts = ragged(self.offsets, chosen, int(on_host.sum()))
        cell = pbc = None
        if self.periodic is not None and bool(self.periodic[indices].any()):
            assert self.cell is not None and self.pbc is not None
            cell, pbc = self.cell[chosen], self.pbc[chosen]
        atoms = self.numbers[rows], self.positions[rows]
        return Graph.from_arrays(*atoms, counts, cell, pbc, on_host), rows


def sent(indices: Tensor, device: torch.device) -> Tensor:
    """Numbers of the host where the data are, on their way while the host goes on."""
    return indices.to(device, non_blocking=True)
