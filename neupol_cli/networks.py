"""The table of networks: what each is called, where it is and where it comes from."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neupol_cli.models.base import Network, Task


@dataclass(frozen=True)
class Entry:
    """A network: where it is, what it learns, and where it comes from.

    ``task`` is ``property`` (numbers a structure), ``density`` or ``dynamics`` (positions later).
    """

    name: str
    target: str
    task: Task
    summary: str
    source: str

    def load(self) -> type[Network]:
        """The class itself."""
        module, _, attribute = self.target.partition(":")
        network: type[Network] = getattr(importlib.import_module(module), attribute)
        return network


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "egnn",
            "neupol_cli.models.egnn.network:EGNN",
            "property",
            "E(n) equivariant graph network: messages from features and distances",
            "Satorras, Hoogeboom, Welling 2021 (arXiv 2102.09844)",
        ),
        Entry(
            "equivariant-transformer",
            "neupol_cli.models.equivariant_transformer.network:EquivariantTransformer",
            "property",
            "Equivariant transformer: attention over neighbours with scalars and vectors",
            "Tholke, de Fabritiis 2022 (arXiv 2202.02541)",
        ),
        Entry(
            "equiformer",
            "neupol_cli.models.equiformer.network:Equiformer",
            "property",
            "Equiformer: graph attention with nonlinear equivariant messages, l <= 2",
            "Liao, Smidt 2023 (arXiv 2206.11990)",
        ),
        Entry(
            "dimenet",
            "neupol_cli.models.dimenet.network:DimeNet",
            "property",
            "DimeNet++: messages on bonds, turned by the angles between them",
            "Gasteiger, Giri, Margraf, Günnemann 2020 (arXiv 2011.14115)",
        ),
        Entry(
            "painn",
            "neupol_cli.models.painn.network:PaiNN",
            "property",
            "PaiNN: messages of scalars and vectors that talk to each other at every atom",
            "Schütt, Unke, Gastegger 2021 (arXiv 2102.03150)",
        ),
        Entry(
            "distance-transformer",
            "neupol_cli.models.distance_transformer.network:DistanceTransformer",
            "property",
            "self-attention over a molecule's atoms, biased by encoded distances",
            "Gao et al. 2022 (NeurIPS, regularized positional encoding), footnote 2",
        ),
        Entry(
            "charge3net",
            "neupol_cli.models.charge3net.network:ChargE3Net",
            "density",
            "ChargE3Net: electron densities from higher-order equivariant features",
            "Koker, Quigley, Taw, Tibbetts, Li 2023 (arXiv 2312.05388)",
        ),
        Entry(
            "deepdft-schnet",
            "neupol_cli.models.deepdft.schnet:SchNetDensity",
            "density",
            "DeepDFT, invariant: electron densities from SchNet's messages",
            "Jorgensen, Bhowmik 2020 (arXiv 2011.03346)",
        ),
        Entry(
            "deepdft-painn",
            "neupol_cli.models.deepdft.painn:PaiNNDensity",
            "density",
            "DeepDFT, equivariant: electron densities from PaiNN's messages",
            "Jorgensen, Bhowmik 2022 (doi 10.1038/s41524-022-00863-y)",
        ),
        Entry(
            "egnn-nbody",
            "neupol_cli.models.egnn.nbody:EGNNDynamics",
            "dynamics",
            "EGNN with velocities: where charged particles will be",
            "Satorras, Hoogeboom, Welling 2021 (arXiv 2102.09844)",
        ),
    )
}
