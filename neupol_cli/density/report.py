"""What ``neupol density`` says of one structure: the numbers, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from neupol_cli.density import measures
from neupol_cli.density.around_atoms import AroundAtoms
from neupol_cli.density.on_grid import Predicted
from neupol_cli.io import said, volumetric
from neupol_cli.io.volumetric import Volume
from neupol_cli.text import printable

NULLABLE = {"electrons_grid_error", "electrons_expected"}  # these are said where they are unknown


@dataclass
class DensityReport:
    """The numbers of one density, named as in JSON; None is what does not apply."""

    structure: str
    formula: str
    atoms: int
    grid: list[int]
    spacing_Angstrom: list[float]
    points: int
    atom_seconds: float
    probe_seconds: float
    probes_per_second: float
    electrons_sum: float
    model: str = ""
    electrons_grid_error: float | None = None
    electrons_expected: float | None = None
    spin_sum: float | None = None
    spin_grid_error: float | None = None
    dipole_D: list[float] | None = None
    dipole_norm_D: float | None = None
    dipole_grid_error_D: float | None = None
    electrons: float | None = None  # after --normalize
    factor: float | None = None
    eps_mae_percent: float | None = None
    eps_mae_below_percent: float | None = None  # nine times in ten
    around: AroundAtoms | None = None  # each of the atoms
    output: str = ""
    spin: str | None = None
    plot: str | None = None
    doubts: list[str] | None = None
    info: said.Info | None = None  # what the structure's file says of it
    seconds: float = 0.0

    @classmethod
    def of(
        cls, label: str, predicted: Predicted, charges: np.ndarray | None, expected: float | None
    ) -> DensityReport:
        """Of a prediction.

        Args:
            label: the structure's name.
            predicted: its density and what that cost.
            charges: (A,) e of the ions, where the model says them.
            expected: electrons there should be, where that is known.
        """
        volume, grid = predicted.volume, predicted.volume.grid
        report = cls(
            structure=label,
            formula=volume.atoms.get_chemical_formula(),
            atoms=len(volume.atoms),
            grid=list(grid.shape),
            spacing_Angstrom=[float(length) for length in grid.spacing],
            points=grid.size,
            atom_seconds=predicted.atom_seconds,
            probe_seconds=predicted.probe_seconds,
            probes_per_second=grid.size / predicted.probe_seconds,
            electrons_sum=volume.electrons,
            electrons_expected=expected,
            info=said.of(volume.atoms) or None,
        )
        report._add_moments(volume, charges, expected)
        return report

    def _add_moments(
        self, volume: Volume, charges: np.ndarray | None, expected: float | None
    ) -> None:
        """The grid's own errors, the spin, and of a neutral molecule the dipole."""
        error, dipole_error = measures.grid_errors(volume, charges)
        self.electrons_grid_error = _finite(error)
        self.spin_sum = volume.unpaired
        self.spin_grid_error = _finite(measures.spin_grid_error(volume))
        if charges is None or expected is None or volume.atoms.pbc.any():
            return
        if not self.electrons_sum > 0:
            return
        dipole = measures.dipole(volume, charges, expected / self.electrons_sum)
        self.dipole_D = [float(component) for component in dipole]
        self.dipole_norm_D = float(np.linalg.norm(dipole))
        self.dipole_grid_error_D = _finite(dipole_error)

    def electron_count(self) -> tuple[float, float | None, float]:
        """Electrons on the grid, those expected, and what the grid itself may be off."""
        return self.electrons_sum, self.electrons_expected, self.electrons_grid_error or 0.0

    def unpaired(self) -> tuple[float | None, float]:
        """Unpaired electrons on the grid, and what the grid itself may be off."""
        return self.spin_sum, self.spin_grid_error or 0.0

    def as_json(self) -> dict[str, object]:
        """The numbers that apply."""
        shown = NULLABLE | ({"dipole_grid_error_D"} if self.dipole_D is not None else set())
        numbers = vars(self) | {"around": None}
        if self.around is not None:
            numbers["uncertainty_atoms"] = self.around.bounds
        return {
            name: value for name, value in numbers.items() if value is not None or name in shown
        }

    def lines(self) -> Iterator[str]:
        """For people: every number with its unit and what it is worth."""
        counts = " x ".join(str(n) for n in self.grid)
        step = ", ".join(f"{x:.3f}" for x in self.spacing_Angstrom)
        yield f"{self.structure}: {self.formula}, {self.atoms} atoms"
        yield f"  grid       {counts} = {self.points:,} points, step {step} Angstrom"
        yield printable(f"  model      {self.model}")
        yield from self._electron_lines()
        if self.dipole_D is not None:
            vector = " ".join(f"{x:.4f}" for x in self.dipole_D)
            worth = _worth(self.dipole_grid_error_D)
            yield f"  dipole     {self.dipole_norm_D:.4f} D = |{vector}|{worth}"
        if self.eps_mae_percent is not None:
            yield f"  eps_mae    {self.eps_mae_percent:.4f} % of the reference"
        if self.eps_mae_below_percent is not None:
            bound = f"{self.eps_mae_below_percent:.2g} % (eps_mae)"
            yield f"  error      below {bound}, nine times in ten"
        if self.around is not None:
            off = f"{max(self.around.bounds):.2g} electrons"
            yield f"             largest around {self.around.worst}: below {off}"
        rate = f"{self.probes_per_second:,.0f} probes/s"
        shares = f"atoms {self.atom_seconds:.2f} s, probes {self.probe_seconds:.2f} s"
        yield f"  time       {self.seconds:.2f} s ({shares}: {rate})"
        names = ", ".join(filter(None, (self.output, self.spin, self.plot)))
        if names:
            # A file of several structures is complete when the last one is in it.
            multiple = self.output and volumetric.format_of(self.output).multiple
            yield printable(f"  {'goes into' if multiple else 'written  '}  {names}")

    def _electron_lines(self) -> Iterator[str]:
        of = f" of {self.electrons_expected:g}" if self.electrons_expected is not None else ""
        worth = _worth(self.electrons_grid_error)
        yield f"  electrons  {self.electrons_sum:.6f}{of}, sum over the grid{worth}"
        if self.electrons is not None:
            yield f"             {self.electrons:.6f} after --normalize (times {self.factor:.6f})"
        if self.spin_sum is not None:
            worth = _worth(self.spin_grid_error)
            yield f"  spin       {self.spin_sum:.6f} electrons, up minus down{worth}"


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and np.isfinite(value) else None


def _worth(error: float | None) -> str:
    return f" (the grid's own error: about {error:.2g})" if error is not None else ""
