"""A network whose energies are known: springs between atoms, and charges on them.

    U = sum over pairs of stiffness / 2 (d - length)^2,      mu = sum of charges times places

Registered as ``harmonic`` in a process that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from neupol_cli import checkpoint, networks
from neupol_cli.domain.facts import facts_of
from neupol_cli.models.base import Backbone, FactsRecord, PropertyConfig
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.property import PropertyModel
from tests import warm

STIFFNESS, LENGTH = 30.0, 1.1  # eV/Angstrom^2, Angstrom
CHARGES = {1: 0.2, 8: -0.2, 6: 0.1}  # e
DEBYE = 4.803204712570263  # in an e Angstrom
COMMAND = """
import sys
from tests.simulation import harmonic
harmonic.register()
{before}
sys.argv = ["neupol", *sys.argv[1:]]
from neupol_cli import signals
signals.install()
from neupol_cli.app import main
main()
"""


@dataclass(frozen=True)
class Config(PropertyConfig):
    species: tuple[int, ...] = (1, 6, 8)
    targets: tuple[str, ...] = ("energy", "dipole")
    units: tuple[str, ...] = ("eV", "D")
    outputs: tuple[str, ...] = ("scalar", "vector")
    cutoff: float | None = None


class Harmonic(Backbone):
    """The backbone; an atom's state is its energy."""

    Config = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.cutoff, self.irreps, self.layers = config.cutoff, "1x0e", nn.ModuleList()
        self.stiffness = nn.Parameter(torch.tensor(STIFFNESS, dtype=torch.float64))
        charges = [CHARGES.get(number, 0.0) for number in config.species]
        self.charges = nn.Parameter(torch.tensor(charges, dtype=torch.float64))

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        return ("scalar", "vector")

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        springs = self.stiffness / 4 * (edges.lengths - LENGTH).square()  # each pair is two edges
        return springs.new_zeros(len(types)).index_add(0, edges.receivers, springs)[:, None]

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        charges = self.charges[self.types(graph.numbers)]
        moments = DEBYE * charges[:, None] * graph.positions
        wide = torch.cat((state, moments), 1)[:, : 4 if "dipole" in self.config.targets else 1]
        return wide.new_zeros(graph.size, wide.shape[1]).index_add(0, graph.batch, wide)


def register() -> None:
    """Makes the network known to this process."""
    place = "tests.simulation.harmonic:Harmonic"
    networks.ENTRIES["harmonic"] = networks.Entry("harmonic", place, "property", "springs", "")


def built(**settings: Any) -> PropertyModel:
    """A model of it."""
    return PropertyModel(Harmonic(Config(**settings))).double().eval()


def saved(path: Path, meta: Mapping[str, Any] = {}, **settings: Any) -> Path:
    """A checkpoint of it."""
    model = built(**settings)
    checkpoint.save(path, "harmonic", model, {"targets": model.targets, **meta})
    return path


def neupol(*words: object, before: str = "", **settings: Any) -> warm.Done:
    """A command line in a process that knows the network.

    Args:
        words: of the command line.
        before: what happens first.
        settings: as of `warm.python`.
    """
    return warm.python("-c", COMMAND.format(before=before), *words, **settings)


def domain_of(structures: Sequence[Atoms]) -> FactsRecord:
    """What a checkpoint says that was trained on these."""
    return facts_of(structures, {}).record()
