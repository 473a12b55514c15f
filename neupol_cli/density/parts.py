"""What each atom has in two densities of one structure, and its part of their difference."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.charges import pieces, sharing
from neupol_cli.density.around_atoms import by_nearest_atom
from neupol_cli.errors import InputError
from neupol_cli.io.charges import total_charge
from neupol_cli.io.volumetric import Volume
from neupol_cli.potential.multipoles import multipoles

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class AtomParts:
    """Of A atoms.

    Attributes:
        symbols: their elements.
        errors: (A,) electrons, the integral of |rho - rho'| over what is nearest to each.
        electrons: in the true density; eps_mae is the sum of the errors over it.
        charges, charges_reference: (A,) e by Hirshfeld, in the judged density and in the true one;
            None without free atoms.
        dipole, dipole_reference: (3,) D about the centre of nuclear charge; None of a cell, and
            without free atoms.
    """

    symbols: list[str]
    errors: np.ndarray
    electrons: float
    charges: np.ndarray | None = None
    charges_reference: np.ndarray | None = None
    dipole: np.ndarray | None = None
    dipole_reference: np.ndarray | None = None

    @property
    def error_percent(self) -> np.ndarray:
        """(A,) what each atom adds to eps_mae, percent."""
        return 100.0 * self.errors / self.electrons

    def as_json(self) -> dict[str, object]:
        """The numbers that apply, with their units."""
        values: dict[str, object] = {
            "elements": self.symbols,
            "errors_electrons": self.errors.tolist(),
            "eps_mae_parts_percent": self.error_percent.tolist(),
        }
        if self.charges is not None and self.charges_reference is not None:
            values["charges_e"] = self.charges.tolist()
            values["charges_reference_e"] = self.charges_reference.tolist()
        if self.dipole is not None and self.dipole_reference is not None:
            values["dipole_D"] = self.dipole.tolist()
            values["dipole_reference_D"] = self.dipole_reference.tolist()
        return values

    def line(self) -> str | None:
        """Of the dipoles, for people."""
        if self.dipole is None or self.dipole_reference is None:
            return None
        both = (f"{np.linalg.norm(d):.4f} D = |{_components(d)}|" for d in self._dipoles())
        return "  dipole     " + ", of the reference ".join(both)

    def _dipoles(self) -> list[np.ndarray]:
        return [d for d in (self.dipole, self.dipole_reference) if d is not None]

    def table(self) -> Table:
        """A row an atom."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for head in ("atom", "element", "error (electrons)", "charge (e)", "of the reference"):
            table.add_column(head, justify="left" if head == "element" else "right")
        assert self.charges is not None and self.charges_reference is not None  # of `parts`
        rows = zip(self.errors, self.charges, self.charges_reference, strict=True)
        for index, row in enumerate(rows):
            table.add_row(str(index + 1), self.symbols[index], *(f"{value:.4f}" for value in row))
        return table


def _components(vector: np.ndarray) -> str:
    return " ".join(f"{number:.4f}" for number in vector)


def errors_only(judged: Volume, truth: Volume) -> AtomParts:
    """Atoms' parts of the error between two densities on one grid, whatever their electrons are."""
    error = np.abs(judged.values - truth.values.astype(np.float64))
    return AtomParts(
        symbols=judged.atoms.get_chemical_symbols(),
        errors=by_nearest_atom(error.ravel(), truth.grid, judged.atoms),
        electrons=float(np.abs(truth.values).sum(dtype=np.float64)) * truth.grid.element,
    )


def parts(judged: Volume, truth: Volume, label: str) -> AtomParts:
    """What atoms have in two densities on one grid; free atoms are those of the true one.

    Raises:
        InputError: there are none of its elements, or it holds other electrons.
    """
    atoms = judged.atoms
    truth = Volume(atoms, truth.grid, truth.values)  # whose own may be in another order
    free = pieces.free_atoms_of(truth, total_charge(atoms, label) or 0, label)
    found, true = (pieces.deformation(volume, free) for volume in (judged, truth))
    nuclei = np.array([atom.electrons for atom in free])
    molecule = not atoms.pbc.any()
    return replace(
        errors_only(judged, truth),
        charges=nuclei - sharing.hirshfeld(found).electrons,
        charges_reference=nuclei - sharing.hirshfeld(true).electrons,
        dipole=multipoles(found).dipole if molecule else None,
        dipole_reference=multipoles(true).dipole if molecule else None,
    )


def parts_if_known(judged: Volume, truth: Volume, label: str) -> AtomParts:
    """As `parts`, without charges and dipoles where there are no free atoms of their electrons."""
    try:
        return parts(judged, truth, label)
    except InputError as reason:
        print(f"neupol: {reason}; its page has no charges and dipoles", file=sys.stderr)
        return errors_only(judged, truth)
