"""A batch of structures as flat arrays, and the edges' geometry; neighbours.py finds the edges.

Edges run from a sender j to a receiver i, are sorted by receiver, and never join an atom to
itself; a periodic cell smaller than the cutoff joins it to its own images.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import ase

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Graph:
    """A batch of B structures with A atoms in all.

    Attributes:
        numbers: (A,) atomic numbers.
        positions: (A, 3) in Angstrom.
        batch: (A,) index of each atom's structure, ascending.
        counts: (B,) atoms of each structure.
        cell: (B, 3, 3) lattice vectors as rows, Angstrom, or None if nothing here is periodic.
        pbc: (B, 3) which of them repeat, or None.
        on_host: (B,) the counts once more, where the host reads them; None if nobody kept them.
    """

    numbers: Tensor
    positions: Tensor
    batch: Tensor
    counts: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    on_host: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of structures."""
        return self.counts.shape[0]

    @property
    def sizes(self) -> Tensor:
        """(B,) the counts, on the host: an accelerator is asked for them unless they were kept."""
        return self.counts.cpu() if self.on_host is None else self.on_host

    @classmethod
    def from_arrays(
        cls,
        numbers: Tensor,
        positions: Tensor,
        counts: Tensor,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        on_host: Tensor | None = None,
    ) -> Graph:
        """The batch whose structures lie one behind the other in ``numbers`` and ``positions``.

        Others: see the class; ``cell`` and ``pbc`` are left out if nothing is periodic.
        """
        index = torch.arange(counts.shape[0], device=counts.device)
        batch = index.repeat_interleave(counts, output_size=numbers.shape[0])
        return cls(numbers.long(), positions, batch, counts, cell, pbc, on_host)

    @classmethod
    def from_atoms(
        cls, structures: Sequence[ase.Atoms], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Graph:
        """The batch of some ASE structures, in their order."""
        arrays = {
            "numbers": np.concatenate([s.numbers for s in structures]),
            "positions": np.concatenate([s.positions for s in structures]),
            "counts": np.array([len(s) for s in structures]),
        }
        pbc = np.stack([s.pbc for s in structures])
        if pbc.any():
            arrays |= {"cell": np.stack([s.cell.array for s in structures]), "pbc": pbc}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        kinds = {"positions": dtype, "cell": dtype}
        moved = {
            name: tensor.to(device, kinds.get(name), non_blocking=True)
            for name, tensor in tensors.items()
        }
        return cls.from_arrays(**moved, on_host=tensors["counts"])

    def at(self, positions: Tensor, cell: Tensor | None = None) -> Graph:
        """The same structures with their atoms (and cells) elsewhere."""
        return replace(self, positions=positions, cell=self.cell if cell is None else cell)


@dataclass(frozen=True)
class NeighbourList:
    """Who sees whom, without their places.

    Attributes:
        receivers: (E,) indices of points, ascending.
        senders: (E,) indices of points.
        shifts: (E, 3) lattice vectors between the sender and its image, or None.
        both_ways: whether every edge's reverse is known to be here too, and no pair is here twice.
        first_moving: of points that lie there twice, [x; x~], the first edge that an x~ receives.
    """

    receivers: Tensor
    senders: Tensor
    shifts: Tensor | None = None
    both_ways: bool = False
    first_moving: int = 0


class Edges:
    """Edges with their geometry; each quantity is computed once, when it is first asked for.

    A unit vector d / |d| jumps where two points pass through each other, and |d| has a kink. Where
    atoms stay apart that does not matter; movable points start on their atoms. Within ``softening``
    R of each other both become polynomials of d, which join with three derivatives at |d| = R:

        |d| -> R (1 - t/2 - t^2/8 - t^3/16),   d / |d| -> d/R (1 + t/2 + 3 t^2/8 + 5 t^3/16)

    with t = 1 - |d|^2 / R^2, the series of |d| / R and R / |d|. Y_l of such a direction, which is
    a polynomial of its components, vanishes as |d|^l.

    Attributes:
        receivers, senders: (E,) indices of points.
        vectors: (E, 3) sender + shift - receiver, Angstrom.
        softening: R, Angstrom; 0 leaves lengths and directions as they are.
        shared: what several layers read of these edges: encodings, the layout of their pairs.
        both_ways, first_moving: see NeighbourList.
        coinciding: the edges among the atoms alone, as long as every movable point lies on its
            atom; these here are then four of each, and two between each atom and its point.
        first_receiver: the first point whose next state somebody reads; a step answers from it on.
    """

    def __init__(
        self, receivers: Tensor, senders: Tensor, vectors: Tensor, softening: float = 0.0
    ) -> None:
        self.receivers = receivers
        self.senders = senders
        self.vectors = vectors
        self.softening = softening
        self.shared: dict[Hashable, object] = {}
        self.both_ways = False
        self.first_moving = 0
        self.coinciding: Edges | None = None
        self.first_receiver = 0

    def apply(self, step: Callable[[Tensor, Edges], Tensor], state: Tensor) -> Tensor:
        """A step of a network over all of them; see models/streaming.py for the other way."""
        return step(state, self)

    def received_by_moving(self, points: int) -> Edges:
        """Those whose receiver is a movable point; half of the points are."""
        start = self.first_moving
        ends = self.receivers[start:], self.senders[start:]
        edges = Edges(*ends, self.vectors[start:], self.softening)
        edges.first_receiver = points // 2
        return edges

    def of_no_length(self) -> Edges:
        """One edge like that between an atom and a point that lies on it."""
        own = self.receivers.new_zeros(1)
        return Edges(own, own, self.vectors.new_zeros(1, 3), self.softening)

    def select(self, index: Tensor) -> Edges:
        """Some of them, by their indices (S,)."""
        return Edges(
            self.receivers.index_select(0, index),
            self.senders.index_select(0, index),
            self.vectors.index_select(0, index),
            self.softening,
        )

    def once(self, key: Hashable, make: Callable[[], Shared]) -> Shared:
        """What several layers read of these edges, made when the first of them asks for it."""
        if key not in self.shared:
            self.shared[key] = make()
        return cast(Shared, self.shared[key])

    @classmethod
    def of(
        cls,
        neighbour_list: NeighbourList,
        positions: Tensor,
        batch: Tensor,
        cell: Tensor | None = None,
        softening: float = 0.0,
    ) -> Edges:
        """The edges of a neighbour list with their geometry.

        Args:
            neighbour_list: who sees whom.
            positions: (P, 3) of the points, Angstrom.
            batch: (P,) index of each point's structure.
            cell: (B, 3, 3) lattice vectors as rows, Angstrom.
            softening: Angstrom; see the class.
        """
        receivers, senders = neighbour_list.receivers, neighbour_list.senders
        vectors = positions.index_select(0, senders) - positions.index_select(0, receivers)
        if neighbour_list.shifts is not None and cell is not None:
            lattice = cell.index_select(0, batch.index_select(0, receivers))  # (E, 3, 3)
            shifts = neighbour_list.shifts.to(cell.dtype)
            vectors = vectors + torch.einsum("ek,ekx->ex", shifts, lattice)
        edges = cls(receivers, senders, vectors, softening)
        edges.both_ways = neighbour_list.both_ways
        edges.first_moving = neighbour_list.first_moving
        return edges

    @cached_property
    def squared(self) -> Tensor:
        """(E,) squared distances, Angstrom^2."""
        return self.vectors.square().sum(-1)

    @cached_property
    def lengths(self) -> Tensor:
        """(E,) distances, Angstrom, or what they become; at zero their gradient is zero."""
        if not self.softening:
            return self._distances * self.apart
        t = self._nearness
        near = self.softening * (1 - t * (1 / 2 + t * (1 / 8 + t / 16)))
        return torch.where(self.apart, self._distances, near)

    @cached_property
    def directions(self) -> Tensor:
        """(E, 3) unit vectors from the receiver to the sender, or what they become; zero where the
        two coincide."""
        if not self.softening:
            return self.vectors / self._distances[:, None]
        t = self._nearness
        near = (1 + t * (1 / 2 + t * (3 / 8 + t * (5 / 16)))) / self.softening
        return self.vectors * torch.where(self.apart, 1 / self._distances, near)[:, None]

    @cached_property
    def apart(self) -> Tensor:
        """(E,) bool: whose lengths and directions are those of two points that do not touch."""
        return self.squared.detach() > self.softening**2

    @cached_property
    def _distances(self) -> Tensor:
        """(E,) distances of those apart, 1 for the others."""
        return torch.where(self.apart, self.squared, 1.0).sqrt()

    @cached_property
    def _nearness(self) -> Tensor:
        """(E,) t of those that are not apart, 0 for the others."""
        return torch.where(self.apart, 0.0, 1 - self.squared / self.softening**2)


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums rows of ``values`` (E, ...) that share an ``index`` (E,) -> (size, ...)."""
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)


def counted(index: Tensor, size: int) -> Tensor:
    """(size,) how often each number is in ``index`` (E,); `bincount` makes a GPU's host wait."""
    return index.new_zeros(size).scatter_add_(0, index, torch.ones_like(index))


def where_true(mask: Tensor, count: int | None = None) -> Tensor:
    """(count,) indices of what is true in a mask (E,), or (count, dims) in one of more dimensions.

    How many there are, if the host knows it, spares it to wait for an accelerator's answer.
    """
    if count is None or mask.device.type == "cpu":
        found = mask.nonzero()
    else:
        found = torch.nonzero_static(mask, size=count)
    return found.squeeze(1) if mask.dim() == 1 else found


def ragged(
    offsets: Tensor, indices: Tensor, output_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rows of the chosen items of a flat ragged array, without a Python loop.

    Args:
        offsets: (N + 1,) item k owns the rows ``offsets[k]:offsets[k + 1]``.
        indices: (B,) the items, in any order.
        output_size: R, where the host knows it.

    Returns:
        (R,) the rows of these items one behind the other, and (B,) how many each has.
    """
    starts = offsets[indices]
    counts = offsets[indices + 1] - starts
    ends = counts.cumsum(0)
    shift = (starts - (ends - counts)).repeat_interleave(counts, output_size=output_size)
    return torch.arange(shift.shape[0], device=offsets.device) + shift, counts
