"""PAW augmentation occupancies, which VASP writes behind the grids of a CHGCAR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Occupancies = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What a CHGCAR holds beside its grids.

    Attributes:
        total: every ion's occupancies, (L,) each, of the total density.
        spin: the same of up minus down, where there is a second grid with occupancies.
        moments: (A,) Bohr magnetons that VASP began with, before the second grid.
        whole: whether there is nothing else, such as the imaginary parts of complex occupancies.
        source: the file that they are from, for messages.
    """

    total: Occupancies
    spin: Occupancies | None = None
    moments: np.ndarray | None = None
    whole: bool = True
    source: str = ""

    def in_order(self, ions: Sequence[int]) -> Augmentation:
        """The same for atoms in another order: atom i is the ion ``ions[i]``."""
        return replace(
            self,
            total=tuple(self.total[ion] for ion in ions),
            spin=None if self.spin is None else tuple(self.spin[ion] for ion in ions),
            moments=None if self.moments is None else self.moments[list(ions)],
        )
