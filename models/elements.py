"""Which elements a network knows, and what happens to an atom of another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neupol_cli.errors import BadInput


class Elements(nn.Module):
    """Atomic numbers -> indices of a density network's elements."""

    lookup: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        self.species = tuple(species)
        lookup = torch.full((max(species) + 1,), -1)
        lookup[list(species)] = torch.arange(len(species))
        self.register_buffer("lookup", lookup, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """(A,) atomic numbers -> (A,) indices of elements.

        Raises:
            BadInput: an element that the network never saw, naming the first such atom.
        """
        found = self.lookup[numbers.clamp(0, self.lookup.shape[0] - 1)]
        found = torch.where(numbers < self.lookup.shape[0], found, -1)
        if bool((found < 0).any()):
            atom = int((found < 0).nonzero()[0])
            known = ", ".join(map(str, self.species))
            raise BadInput(
                f"atom {atom + 1} has atomic number {int(numbers[atom])}; this model was trained "
                f"on {known}"
            )
        return found
