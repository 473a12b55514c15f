"""Every network of the registry, small: property networks in every mode and with every encoding
they take, density networks with the settings that change what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.distance import ENCODINGS

# A network that is not here fails test_every_network_is_held_to_the_contracts.
SMALL: dict[str, dict[str, Any]] = {
    "egnn": {"hidden": 12, "layers": 3},
    "equivariant-transformer": {"hidden": 16, "layers": 3, "heads": 4, "encoding_size": 8},
    "equiformer": {
        "irreps": "8x0e+4x1e+2x2e",
        "layers": 2,
        "heads": 2,
        "head_irreps": "4x0e+2x1e+2x2e",
        "mlp_irreps": "8x0e+4x1e+2x2e",
        "feature": 8,
        "encoding_size": 8,
        "radial": (8, 8),
    },
    "dimenet": {"hidden": 12, "layers": 2, "triplet": 8, "output": 12, "output_start": "glorot"},
    "painn": {"hidden": 16, "layers": 3, "encoding_size": 8},
    "distance-transformer": {"hidden": 16, "layers": 2, "heads": 4, "feed_forward": 16},
}
MODES = dict.fromkeys(SMALL, ("off", "frozen", "movable"))
MODES["dimenet"] = ("off",)  # its state lives on edges
MODES["distance-transformer"] = ("off", "frozen")  # it has no vectors to move points by

# Networks whose features have no parity: rotations, but no reflections.
CHIRAL = {"equiformer"}


# The same of density networks; each is held to the contracts with every one of these settings.
DENSITIES: dict[str, tuple[dict[str, Any], ...]] = {
    "charge3net": (
        {},
        {"encoding": "learned"},
        {"polarization": "movable"},
        {"polarization": "late", "encoding": "learned", "promolecule": 4},
        {"polarization": "frozen", "encoding": "learned", "promolecule": 4},
        {"spin": True, "promolecule": 4},
        {"spin": True, "pseudoscalar_spin": True},
    ),
    "deepdft-schnet": ({},),
    "deepdft-painn": ({},),
}
SMALL_DENSITIES: dict[str, dict[str, Any]] = {
    "charge3net": {
        "mul": 24,
        "lmax": 2,
        "layers": 3,
        "embedding": 8,
        "hidden": 16,
        "num_neighbors": 80,
    },
    "deepdft-schnet": {"hidden": 16, "layers": 3},
    "deepdft-painn": {"hidden": 16, "layers": 3},
}


def shaken(model: Any) -> Any:
    """A network whose weights were all moved, by the same noise each time."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.05 * noise
    return model


@dataclass(frozen=True)
class Case:
    """A network, a mode of Neural Polarization, an encoding."""

    name: str
    mode: str = "off"
    encoding: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.mode, self.encoding)))

    def build(self, **settings: Any) -> Any:
        """The network in float64, its weights shaken so that nothing hides behind a zero."""
        torch.manual_seed(1)
        config = SMALL[self.name] | {"polarization": self.mode} | settings
        if self.encoding:
            config["encoding"] = self.encoding
        return shaken(registry.build(self.name, config).double().eval())


CASES = [Case(name, mode) for name in SMALL for mode in MODES[name]]
CASES += [Case(name, "off", encoding) for name in SMALL for encoding in ENCODINGS]
CASES += [Case("egnn", "movable", encoding) for encoding in ("learned", "bessel")]


@dataclass(frozen=True)
class DensityCase:
    """A density network and which of its settings."""

    name: str
    choice: int

    @property
    def settings(self) -> dict[str, Any]:
        return DENSITIES[self.name][self.choice]

    def __str__(self) -> str:
        names = (k if v is True else str(v) for k, v in self.settings.items() if k != "promolecule")
        return "-".join((self.name, *names))

    def build(self) -> Any:
        """The network in float64, its weights shaken, its spherical atoms not zero."""
        torch.manual_seed(1)
        config = SMALL_DENSITIES[self.name] | self.settings
        model = shaken(registry.build(self.name, config).double().eval())
        if model.promolecule is not None:
            model.promolecule.coefficients[: len(model.config.species)].normal_()
        return model


DENSITY_CASES = [DensityCase(name, k) for name in DENSITIES for k in range(len(DENSITIES[name]))]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(params=[c for c in CASES if not c.encoding], ids=str)
def mode(request: pytest.FixtureRequest) -> Case:
    """The cases without a choice of encoding, for contracts that do not depend on it."""
    return request.param


@pytest.fixture
def molecules() -> list[ase.Atoms]:
    """Three chiral heaps of atoms, none of them symmetric, none too close."""
    generator = np.random.default_rng(5)
    made = []
    for symbols in ("OCHHN", "CHF", "NCOHHCH"):
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
        places = generator.permutation(grid)[: len(symbols)] * 1.3
        made.append(ase.Atoms(symbols, places + generator.uniform(-0.2, 0.2, places.shape)))
    return made


@pytest.fixture(params=DENSITY_CASES, ids=str)
def density_case(request: pytest.FixtureRequest) -> DensityCase:
    return request.param


@pytest.fixture
def crystal() -> ase.Atoms:
    """A skewed cell much smaller than any cutoff."""
    cell = [[2.9, 0.2, 0.0], [-0.9, 2.6, 0.3], [0.4, 0.5, 3.1]]
    places = [[0.1, 0.2, 0.3], [1.4, 1.1, 0.9], [0.7, 2.0, 2.2]]
    return ase.Atoms("COH", places, cell=cell, pbc=True)
