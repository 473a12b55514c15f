"""Which elements a network knows, and what happens to an atom of another one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neupol_cli.errors import InputError

if TYPE_CHECKING:
    import ase


class Elements(nn.Module):
    """Atomic numbers -> indices of a network's elements."""

    lookup: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        self.species = tuple(species)
        lookup = torch.full((max(species) + 1,), -1)
        lookup[list(species)] = torch.arange(len(species))
        self.register_buffer("lookup", lookup, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """(A,) atomic numbers -> (A,) indices of elements.

        On an accelerator, which would have to be waited for, nobody looks: who hands structures
        over has checked them (:func:`check_elements`).

        Raises:
            InputError: on a CPU, an element that the network never saw, naming the first such atom.
        """
        types = self.lookup[numbers.clamp(0, self.lookup.shape[0] - 1)]
        types = torch.where(numbers < self.lookup.shape[0], types, -1)
        if types.device.type == "cpu" and bool((types < 0).any()):
            atom = int((types < 0).nonzero()[0])
            known = ", ".join(map(str, self.species))
            raise InputError(
                f"atom {atom + 1} has atomic number {int(numbers[atom])}; this model was trained "
                f"on {known}"
            )
        return types


def check_elements(structure: ase.Atoms, known: Collection[int], label: str) -> None:
    """Refuses elements that a model was not trained on.

    Args:
        structure: whose atoms are checked.
        known: atomic numbers.
        label: what the message calls the structure.

    Raises:
        InputError: naming the first such atom, and the elements that the model knows.
    """
    from ase.data import chemical_symbols

    for index, number in enumerate(structure.numbers.tolist()):
        if number not in known:
            trained = " ".join(chemical_symbols[z] for z in sorted(known))
            raise InputError(
                f"{label}: atom {index + 1} is {chemical_symbols[number]}; "
                f"this model was trained on {trained} only"
            )
