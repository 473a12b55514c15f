"""The neighbours of every atom, padded to as many for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges, counted


@dataclass(frozen=True)
class Neighbourhoods:
    """The neighbours of A atoms, K for each, some of which are padding.

    Attributes:
        senders: (A, K) the neighbour; any atom in the padding.
        harmonics: (A, K, (lmax + 1)^2) of receiver - sender; zero in the padding.
        edges: (A, K) which of the E distances belongs here; any in the padding.
        lengths: (E,) Angstrom.
        basis: (E, basis_size) their radial basis.
    """

    senders: Tensor
    harmonics: Tensor
    edges: Tensor
    lengths: Tensor
    basis: Tensor

    @classmethod
    def of(cls, edges: Edges, atoms: int, harmonics: Tensor, basis: Tensor) -> Neighbourhoods:
        """From edges sorted by receiver.

        Args:
            edges: E of them.
            atoms: how many there are.
            harmonics: (E, (lmax + 1)^2) of receiver - sender.
            basis: (E, basis_size) of the lengths.
        """
        count, device, lengths = edges.receivers.shape[0], edges.receivers.device, edges.lengths
        places, width = _places(edges.receivers, atoms)
        which = torch.zeros(atoms * width, dtype=torch.long, device=device)
        which[places] = torch.arange(count, device=device)
        senders = torch.zeros_like(which)
        senders[places] = edges.senders
        padded = harmonics.new_zeros(atoms * width, harmonics.shape[1])
        padded = padded.index_copy(0, places, harmonics).view(atoms, width, -1)
        if not count:  # the padding points at a distance: without any edge, at one of no meaning
            lengths, basis = lengths.new_zeros(1), basis.new_zeros(1, basis.shape[1])
        return cls(senders.view(atoms, width), padded, which.view(atoms, width), lengths, basis)

    def blocks(self, size: int) -> Iterator[Neighbourhoods]:
        """The same for ``size`` atoms at a time, with the distances of each block alone.

        With gradients, which need all atoms together, in one.
        """
        if self.senders.shape[0] <= size or torch.is_grad_enabled():
            yield self
            return
        columns = (self.senders, self.harmonics, self.edges)
        for senders, harmonics, edges in zip(*(c.split(size) for c in columns), strict=True):
            flat = edges.flatten()
            local = torch.arange(flat.shape[0], device=flat.device).view(edges.shape)
            yield Neighbourhoods(senders, harmonics, local, self.lengths[flat], self.basis[flat])


def _places(receivers: Tensor, atoms: int) -> tuple[Tensor, int]:
    """(E,) where edges sorted by receiver go in A rows of K, and K."""
    counts = counted(receivers, atoms)
    width = max(int(counts.max()), 1) if atoms else 1
    rank = torch.arange(receivers.shape[0], device=receivers.device)
    rank = rank - (counts.cumsum(0) - counts)[receivers]
    return receivers * width + rank, width
