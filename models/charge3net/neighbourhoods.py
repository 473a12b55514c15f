"""The neighbours of every atom, padded to as many for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges, counted


@dataclass(frozen=True)
class Neighbourhoods:
    """The neighbours of A atoms, K for each, some of which are padding.

    Attributes:
        senders: (A, K) the neighbour; any atom in the padding.
        harmonics: (A, K, (lmax + 1)^2) of receiver - sender; zero in the padding.
        edges: (A, K) which of the N distances belongs here; any in the padding.
        lengths: (N,) Angstrom; where no gradient needs them apart, equal ones are one.
        basis: (N, basis_size) their radial basis.
        own: where each of A movable points lies on its atom, the one neighbour of all 2A that each
            is of the other; all else here is of the A atoms then.
    """

    senders: Tensor
    harmonics: Tensor
    edges: Tensor
    lengths: Tensor
    basis: Tensor
    own: Neighbourhoods | None = None

    @classmethod
    def of(
        cls, edges: Edges, atoms: int, harmonics: Tensor, basis: Callable[[Tensor], Tensor]
    ) -> Neighbourhoods:
        """From edges sorted by receiver.

        Args:
            edges: E of them.
            atoms: how many there are.
            harmonics: (E, (lmax + 1)^2) of receiver - sender.
            basis: (N,) lengths -> (N, basis_size).
        """
        places, width = _places(edges.receivers, atoms)
        lengths, own = distinct(edges.lengths)
        if not own.shape[0]:  # the padding points at a distance: without any edge, at some one
            lengths = lengths.new_ones(1)
        which = torch.zeros(atoms * width, dtype=torch.long, device=own.device)
        which[places] = own
        senders = torch.zeros_like(which)
        senders[places] = edges.senders
        padded = harmonics.new_zeros(atoms * width, harmonics.shape[1])
        padded = padded.index_copy(0, places, harmonics).view(atoms, width, -1)
        shape = atoms, width
        return cls(senders.view(shape), padded, which.view(shape), lengths, basis(lengths))

    def with_own(self, edge: Edges, harmonics: Tensor, basis: Tensor) -> Neighbourhoods:
        """These, of atoms, with a movable point on each.

        Args:
            edge: one, between an atom and its point.
            harmonics: (1, (lmax + 1)^2) of it.
            basis: (1, basis_size).
        """
        atoms = self.senders.shape[0]
        each = torch.arange(atoms, device=self.senders.device)[:, None]
        senders = torch.cat((each + atoms, each))
        spread = harmonics.expand(2 * atoms, 1, -1)
        own = Neighbourhoods(senders, spread, torch.zeros_like(senders), edge.lengths, basis)
        return replace(self, own=own)

    def blocks(self, size: int) -> Iterator[Neighbourhoods]:
        """The same for ``size`` atoms at a time, with the distances of each block alone.

        With gradients, which need all atoms together, in one.
        """
        if self.senders.shape[0] <= size or torch.is_grad_enabled():
            yield self
            return
        columns = (self.senders, self.harmonics, self.edges)
        for senders, harmonics, edges in zip(*(c.split(size) for c in columns), strict=True):
            used, local = edges.unique(return_inverse=True)
            yield Neighbourhoods(senders, harmonics, local, self.lengths[used], self.basis[used])


def distinct(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) -> (N,) each length once, and (E,) which of them each is.

    The two directions of an edge have one length, to the last bit. Gradients keep all apart, and so
    does a GPU, whose host would have to wait for N.
    """
    if torch.is_grad_enabled() or lengths.device.type != "cpu":
        return lengths, torch.arange(lengths.shape[0], device=lengths.device)
    return lengths.unique(return_inverse=True)


def _places(receivers: Tensor, atoms: int) -> tuple[Tensor, int]:
    """(E,) where edges sorted by receiver go in A rows of K, and K."""
    counts = counted(receivers, atoms)
    width = max(int(counts.max()), 1) if atoms else 1
    rank = torch.arange(receivers.shape[0], device=receivers.device)
    rank = rank - (counts.cumsum(0) - counts)[receivers]
    return receivers * width + rank, width
