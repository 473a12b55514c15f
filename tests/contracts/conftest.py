"""Every property network of the registry, small, in every mode and with every encoding it takes."""

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
    "distance-transformer": {"hidden": 16, "layers": 2, "heads": 4, "feed_forward": 16},
}
MODES = dict.fromkeys(SMALL, ("off", "frozen", "movable"))
MODES["dimenet"] = ("off",)  # its state lives on edges
MODES["distance-transformer"] = ("off", "frozen")  # it has no vectors to move points by

# Networks whose features have no parity: rotations, but no reflections.
CHIRAL = {"equiformer"}


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
        model = registry.build(self.name, config).double().eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += 0.05 * noise
        return model


CASES = [Case(name, mode) for name in SMALL for mode in MODES[name]]
CASES += [Case(name, "off", encoding) for name in SMALL for encoding in ENCODINGS]
CASES += [Case("egnn", "movable", encoding) for encoding in ("learned", "bessel")]


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
