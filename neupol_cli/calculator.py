"""A trained model as an ASE calculator: relaxations, dynamics, vibrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from neupol_cli import registry
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import DivergedError, InputError
from neupol_cli.io import soundness, units

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    from neupol_cli.models.property import PropertyModel


class NeupolCalculator(Calculator):
    """Energies (eV), forces (eV/Angstrom) and, in periodic cells, stress (eV/Angstrom^3).

    >>> atoms.calc = NeupolCalculator("my_run")
    >>> atoms.get_forces()

    Args:
        model: a bundled name, a run folder, a checkpoint, or a property model itself.
        device: where to compute.
        dtype: the type of number, e.g. ``torch.float64``; None keeps the checkpoint's.

    Raises:
        InputError: the model answers no energy in eV; later, for a charge or multiplicity that it
            was not trained on.
        DivergedError: later, for a structure that has flown apart, or whose cell has collapsed.

    The model's other properties are in ``calc.results`` under their own names after a calculation.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        model: str | PropertyModel,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        **settings: object,
    ) -> None:
        super().__init__(**settings)
        loaded = registry.load_property(model, device, dtype) if isinstance(model, str) else model
        self.model = loaded
        self.energy = loaded.energy
        self.domain = Domain.of(loaded.header)
        unit = loaded.targets[self.energy]
        if unit != "eV":
            raise InputError(f"the model's {self.energy} is in {unit or 'no unit'}; ASE needs eV")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        formula = self.atoms.get_chemical_formula()
        try:
            soundness.check_places(self.atoms, formula)
        except InputError as error:  # which an optimizer or a dynamics has made of it
            raise DivergedError(str(error)) from error
        if self.domain is not None:
            self.domain.check(self.atoms, formula)
        wanted = set(properties)
        stress = "stress" in wanted
        predicted = self.model.predict(
            [self.atoms], forces=bool(wanted - {"energy", "free_energy"}), stress=stress
        )
        for name, unit in self.model.targets.items():
            value = predicted[name][0]
            self.results[name] = float(value) if value.ndim == 0 else value
            if name == "dipole" and value.ndim:  # which ASE has in a unit of its own
                self.results[name] = units.convert(value, unit, "e*Angstrom")
        self.results["energy"] = float(predicted[self.energy][0])
        self.results["free_energy"] = self.results["energy"]
        if "forces" in predicted:
            self.results["forces"] = predicted["forces"]
        if stress:
            self.results["stress"] = full_3x3_to_voigt_6_stress(predicted["stress"][0])
