"""The density model that a command line names, or that suits a structure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from neupol_cli import registry
from neupol_cli.devices import device_named, dtype_named

if TYPE_CHECKING:
    from ase import Atoms

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

    def chosen(self, atoms: Atoms) -> Chosen:
        """The model that is named, or the bundled one that suits a structure.

        Raises:
            UsageError: a model of another task, or a type of number that there is not.
            InputError: nothing has that name.
        """
        if self.name is not None and not self.is_auto:
            return Chosen(self.name, self._once(self.name))
        rivals = [Chosen(name, self._once(name)) for name in fitting(atoms)]
        return rivals[0] if len(rivals) == 1 else min(rivals, key=lambda rival: rival.off(atoms))

    def model_for(self, atoms: Atoms) -> DensityModel:
        """That model alone."""
        return self.chosen(atoms).model

    def _once(self, name: str) -> DensityModel:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> DensityModel:
        from neupol_cli import threads as cores

        kind = dtype_named(self.dtype)
        device = device_named(self.device)
        cores.take(self.threads, device)
        return registry.load_density(name, device, kind)


class Chosen(NamedTuple):
    """A model and what it is called."""

    name: str
    model: DensityModel

    def off(self, atoms: Atoms) -> float:
        """How far off it says that it may be, eps_mae in percent; anything if it does not say."""
        bound = self.model.uncertainty(self.model.atom_features(atoms))
        return math.inf if bound is None else bound


@dataclass(frozen=True)
class Candidate:
    """A bundled model of total densities.

    Attributes:
        name: its name.
        species: the elements that it knows.
        molecules, periodic: whether its training structures were of this kind.
    """

    name: str
    species: frozenset[int]
    molecules: bool
    periodic: bool

    @classmethod
    def all(cls) -> Iterator[Candidate]:
        """Every one, in the order of their names."""
        for name in registry.bundled():
            header = registry.bundled_header(name)
            if registry.entry(header["model"]).task == "density" and not header["config"]["spin"]:
                species, domain = cast(list[int], header["config"]["species"]), header["domain"]
                yield cls(name, frozenset(species), domain["molecules"], domain["periodic"])


def fitting(atoms: Atoms) -> list[str]:
    """The bundled density models that a structure may get, one at least.

    A molecule gets the first one of molecules that knows its elements; where none does, the first
    of them will refuse it: one of crystals is farther off than free atoms would be. A crystal may
    get any that knows its elements: of a crystal of molecules one of molecules may know more than
    one of crystals, and which is less far off they say themselves.
    """
    models = list(Candidate.all())
    if not atoms.pbc.any():
        models = [model for model in models if model.molecules]
    able = [model.name for model in models if model.species >= set(atoms.numbers.tolist())]
    usual = max(models, key=lambda model: model.periodic == atoms.pbc.any()).name
    return able[: None if atoms.pbc.any() else 1] or [usual]
