"""The density model that a command line names, or that suits a structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from neupol_cli import registry
from neupol_cli.devices import device_named, dtype_named

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.base import Header
    from neupol_cli.models.density.model import DensityModel

AUTO = "auto"  # what ``-m`` calls the bundled model that suits a structure


@dataclass(frozen=True)
class ModelChoice:
    """What the command line says of the model: ``-m``, ``--device``, ``--dtype``, ``--threads``."""

    name: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    _loaded: dict[str, DensityModel] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_auto(self) -> bool:
        """Whether each structure gets the model that suits it."""
        return self.name in (None, AUTO)

    def name_for(self, atoms: Atoms) -> str:
        """The model that is named, or the bundled one that suits a structure."""
        return suited(atoms) if self.name is None or self.is_auto else self.name

    def model_for(self, atoms: Atoms) -> DensityModel:
        """That model, ready to predict; loaded once, with as many threads as were asked for.

        Raises:
            UsageError: a model of another task, or a type of number that there is not.
            InputError: nothing has that name.
        """
        name = self.name_for(atoms)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> DensityModel:
        from neupol_cli import threads as cores

        kind = dtype_named(self.dtype)
        device = device_named(self.device)
        cores.take(self.threads, device)
        return registry.load_density(name, device, kind)


@dataclass(frozen=True)
class Candidate:
    """A bundled model of total densities."""

    name: str
    header: Header

    @classmethod
    def all(cls) -> Iterator[Candidate]:
        """Every one, in the order of their names."""
        for name in registry.bundled():
            header = registry.bundled_header(name)
            if registry.entry(header["model"]).task == "density" and not header["config"]["spin"]:
                yield cls(name, header)

    def fit(self, atoms: Atoms) -> tuple[bool, bool]:
        """How well it suits a structure: whether it knows all elements, and crystals or molecules
        from its training; the greater the better."""
        species, domain = cast(list[int], self.header["config"]["species"]), self.header["domain"]
        learnt = domain["periodic"] if atoms.pbc.any() else domain["molecules"]
        return set(species) >= set(atoms.numbers.tolist()), learnt


def suited(atoms: Atoms) -> str:
    """The bundled density model for a structure: one that knows its elements before all, and was
    trained on crystals for a crystal, on molecules for a molecule."""
    return max(Candidate.all(), key=lambda candidate: candidate.fit(atoms)).name
