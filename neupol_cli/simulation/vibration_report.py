"""What ``neupol vib`` says of one structure: numbers for programs, tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from neupol_cli.io import said
from neupol_cli.io.units import convert
from neupol_cli.simulation.vibrations import Vibrated

if TYPE_CHECKING:
    from rich.table import Table


def record(vibrated: Vibrated) -> dict[str, object]:
    """As one JSON object, with units in names."""
    gas = vibrated.gas
    return {
        "structure": vibrated.label,
        "formula": vibrated.atoms.get_chemical_formula(),
        "atoms": len(vibrated.atoms),
        "energy_eV": vibrated.energy,
        "fmax_eV_per_Angstrom": vibrated.fmax,
        "zero_point_eV": vibrated.zero_point,
        "modes": list(_modes(vibrated)),
        **({"geometry": vibrated.geometry.name} if vibrated.geometry else {}),
        **({"ideal_gas": vars(gas)} if gas else {}),
        "doubts": list(vibrated.doubts),
        **said.item(said.of(vibrated.atoms)),
    }


def _modes(vibrated: Vibrated) -> Iterator[dict[str, object]]:
    for k, wavenumber in enumerate(vibrated.wavenumbers):
        mode: dict[str, object] = {
            "mode": k + 1,
            "wavenumber_per_cm": abs(float(wavenumber)),
            "imaginary": bool(wavenumber < 0),
            "rigid": bool(vibrated.rigid[k]),
        }
        if vibrated.intensities is not None:
            mode["intensity_km_per_mol"] = float(vibrated.intensities[k])
        yield mode


def lines(vibrated: Vibrated) -> Iterator[str]:
    """For people, above the table."""
    kind = f", {vibrated.geometry.name}" if vibrated.geometry else ""
    yield f"{vibrated.label}: {vibrated.atoms.get_chemical_formula()}{kind}"
    yield f"  energy      {vibrated.energy:.6f} eV, largest force {vibrated.fmax:.3g} eV/Angstrom"
    yield f"  zero point  {vibrated.zero_point:.6f} eV"
    gas = vibrated.gas
    if gas is not None:
        entropy = convert(gas.entropy, "eV/K", "J/mol/K")
        conditions = f"{gas.temperature:g} K, {gas.pressure:g} bar"
        yield f"  ideal gas   {conditions}, symmetry number {gas.symmetry_number}"
        yield f"  H           {gas.enthalpy:.6f} eV"
        yield f"  S           {entropy:.4f} J/mol/K"
        yield f"  G           {gas.gibbs:.6f} eV"


def table(vibrated: Vibrated) -> Table:
    """A mode a row; an i behind a wavenumber is the imaginary unit."""
    from rich.table import Table

    grid = Table("mode", "wavenumber (1/cm)", box=None, pad_edge=False)
    for column in grid.columns:
        column.justify = "right"
    if vibrated.intensities is not None:
        grid.add_column("intensity (km/mol)", justify="right")
    grid.add_column("")
    for k, wavenumber in enumerate(vibrated.wavenumbers):
        cells = [str(k + 1), f"{abs(wavenumber):.2f}{'i' if wavenumber < 0 else ''}"]
        if vibrated.intensities is not None:
            cells.append(f"{vibrated.intensities[k]:.3f}")
        grid.add_row(*cells, "rigid motion" if vibrated.rigid[k] else "")
    return grid
