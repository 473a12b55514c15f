"""A dataset's densities where a model is: held points of every grid, and random draws of them.

Densities too large for memory are thinned to random points of each grid, drawn once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neupol_cli.io.hdf5 import Density

# A weighted draw goes with (density + FLOOR)^exponent, so that no point is out of reach.
FLOOR = 1e-3


@dataclass(frozen=True)
class Grids:
    """Densities of N structures on a device, flat.

    Attributes:
        offsets: (N + 1,) the held points of structure i are rows offsets[i]:offsets[i + 1].
        values: (R,) or (R, 2) e/Angstrom^3.
        places: (R,) the index of each held point in its grid, or None if all are held.
        shape: (N, 3); origin: (N, 3) and step: (N, 3, 3), Angstrom.
    """

    offsets: Tensor
    values: Tensor
    places: Tensor | None
    shape: Tensor
    origin: Tensor
    step: Tensor

    @classmethod
    def of(cls, density: Density, indices: np.ndarray, most: int, seed: int, like: Tensor) -> Grids:
        """The grids of some structures, each thinned to ``most`` random points at the most.

        Rows of structures that are not among ``indices`` are empty.
        """
        full = density.shape.prod(1)
        chosen = np.zeros(len(full), bool)
        chosen[indices] = True
        sizes = np.where(chosen, np.minimum(full, most), 0)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        flat, where = _held(density, offsets, seed, bool((sizes < full)[chosen].any()))

        def real(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(like)

        device = like.device
        return cls(
            torch.from_numpy(offsets).to(device),
            real(flat),
            None if where is None else torch.from_numpy(where).to(device),
            torch.from_numpy(density.shape).to(device),
            real(density.origin),
            real(density.step),
        )

    def points(self, structures: Tensor, rows: Tensor) -> Tensor:
        """Where held points lie: (B,) structures, (B, P) rows -> (B, P, 3) Angstrom."""
        first = self.offsets[structures][:, None]
        place = rows - first if self.places is None else self.places[rows]
        _, n2, n3 = self.shape[structures].unbind(1)
        counts = torch.stack(
            (place // (n2 * n3)[:, None], place // n3[:, None] % n2[:, None], place % n3[:, None]),
            2,
        )
        steps = torch.bmm(counts.to(self.step.dtype), self.step[structures])
        return self.origin[structures][:, None] + steps


def _held(
    density: Density, offsets: np.ndarray, seed: int, thinned: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (R,) or (R, 2) float32 of the rows that ``offsets`` keep, and (R,) which they are.

    All of them are in memory once, beside one structure's; where nothing is ``thinned`` there are
    no indices, which would take twice the room of the values.
    """
    rng, rows = np.random.default_rng(seed), int(offsets[-1])
    values = np.empty((rows, 2) if density.spin else rows, np.float32)
    places = np.empty(rows, np.int64) if thinned else None
    for index in np.flatnonzero(np.diff(offsets)):
        here = slice(int(offsets[index]), int(offsets[index + 1]))
        every, size = density.values(int(index)), here.stop - here.start
        chosen: np.ndarray | slice = slice(None)
        if size < len(every):
            chosen = np.sort(rng.choice(len(every), size, replace=False))
        values[here] = every[chosen]
        if places is not None:
            places[here] = np.arange(len(every))[chosen]
    return values, places


class Draw:
    """Random held points of structures, with the weights that keep their mean unbiased.

    Points are drawn in proportion to (density + 0.001)^exponent: a uniform draw spends half of the
    probes where there is next to nothing to learn.
    """

    def __init__(self, grids: Grids, exponent: float) -> None:
        self.grids = grids
        self.sums: Tensor | None = None
        if exponent:
            total = grids.values if grids.values.dim() == 1 else grids.values[:, 0]
            weights = (total.clamp(min=0).double() + FLOOR) ** exponent
            self.sums = torch.cat((weights.new_zeros(1), weights.cumsum(0)))

    def __call__(
        self, structures: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """(B,) structures -> (B, count) rows, and (B, count) weights of mean one, or None."""
        first, last = self.grids.offsets[structures], self.grids.offsets[structures + 1]
        size = (structures.shape[0], count)
        device = structures.device
        chance = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
        if self.sums is None:
            rows = first[:, None] + (chance * (last - first)[:, None]).long()
            return torch.minimum(rows, last[:, None] - 1), None
        low, high = self.sums[first][:, None], self.sums[last][:, None]
        rows = torch.searchsorted(self.sums, low + chance * (high - low), right=True) - 1
        rows = torch.minimum(torch.maximum(rows, first[:, None]), last[:, None] - 1)
        share = self.sums[rows + 1] - self.sums[rows]
        return rows, (high - low) / (last - first)[:, None] / share
