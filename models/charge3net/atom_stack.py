"""ChargE3Net's settings, and its layers among atoms: what is done once a structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.charge3net.tensor_product import (
    EVEN_SCALAR,
    AtomConvolution,
    Features,
    Multiplicities,
    hidden_irreps,
    natural,
    reachable,
)
from neupol_cli.models.nn.graph import Edges, Graph, neighbours
from neupol_cli.models.nn.radial_table import LearnedRadial, RadialNetwork
from neupol_cli.models.polarization import movable_edges

VECTOR = (1, -1)  # 1o
# polarization -> (a second point an atom, which moves)
MODES = {"off": (False, False), "frozen": (True, False), "movable": (True, True)}


@dataclass(frozen=True)
class ChargE3NetConfig:
    """ChargE3Net's settings; the defaults are the paper's.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        mul, lmax: irreps round(mul / (lmax + 1) / (2l + 1)) of both parities, l = 0..lmax.
        layers: of atoms and of probes.
        cutoff: Angstrom.
        basis_size: Gaussians of the radial basis.
        hidden: width of the radial network.
        embedding: channels of the first layer's messages; None takes one a species, as published.
        num_neighbors: typical number of neighbours, for scale.
        spin: two columns, (total, up - down), from two even scalars.
        pseudoscalar_spin: read spin as the published code does: (a + b, a), b a pseudoscalar.
        polarization: ``off``; ``movable`` adds a second, movable point to every atom, and
            ``frozen`` the same without motion.
        encoding: ``gaussian``, the published radial network, or ``learned``, a table.
        bins: nodes of a learned table.
        promolecule: Gaussians an element of the spherical atoms that are summed and added;
            0 for none, as published.
        probes: drawn from each structure in a step of training.
        focus: they are drawn in proportion to density^focus; 0, as published: all alike.
    """

    species: tuple[int, ...] = (1, 6, 7, 8, 9)
    mul: int = 500
    lmax: int = 4
    layers: int = 3
    cutoff: float = 4.0
    basis_size: int = 20
    hidden: int = 100
    embedding: int | None = None
    num_neighbors: float = 20.0
    spin: bool = False
    pseudoscalar_spin: bool = False
    polarization: str = "off"
    encoding: str = "gaussian"
    bins: int = 64
    promolecule: int = 0
    probes: int = 200
    focus: float = 0.0

    @property
    def kinds(self) -> int:
        """How many embeddings an element has: atom, and movable point."""
        return 1 if self.polarization == "off" else 2


RADIALS: dict[str, Callable[[ChargE3NetConfig, int], nn.Module]] = {
    "gaussian": lambda c, channels: RadialNetwork(c.basis_size, c.hidden, channels),
    "learned": lambda c, channels: LearnedRadial(c.cutoff, c.bins, channels),
}


def atom_irreps(config: ChargE3NetConfig) -> list[Multiplicities]:
    """The irreps of the published atom features: the one-hot, then after each layer."""
    hidden = hidden_irreps(config.mul, config.lmax)
    kinds = config.kinds * len(config.species)
    found: list[Multiplicities] = [{EVEN_SCALAR: config.embedding or kinds}]
    for _ in range(config.layers):
        found.append(reachable(found[-1], config.lmax, hidden))
    return found


class AtomStack(nn.Module):
    """The layers among atoms; the last keeps only what probes read."""

    def __init__(self, config: ChargE3NetConfig, radial: Callable[[int], nn.Module]) -> None:
        super().__init__()
        irreps = atom_irreps(config)
        kinds = config.kinds * len(config.species)
        self.layers = nn.ModuleList()
        for n, (before, after) in enumerate(pairwise(irreps)):
            last = n == config.layers - 1
            kept = [k for k in after if natural(k) or config.pseudoscalar_spin or not last]
            ins, inner = (before, None) if n else ({EVEN_SCALAR: kinds}, before)
            self.layers.append(
                AtomConvolution(ins, after, kept, config.lmax, radial, config.num_neighbors, inner)
            )

    @property
    def irreps(self) -> list[Multiplicities]:
        """What each layer hands on."""
        return [cast(AtomConvolution, layer).outs for layer in self.layers]


class Motion(nn.Module):
    """Where the senders are: the atoms alone, or atoms and movable points (Kwak and Jo, eqs. 4-6).

    x~_{t+1} = x~_t + pi_t(v~_{t+1}) with pi_t one linear map without bias from the 1o features.
    The papers leave open at which x~_t a probe reads layer t: here at x~_T, for every layer. The
    maps start at zero.
    """

    def __init__(self, config: ChargE3NetConfig, irreps: list[Multiplicities]) -> None:
        super().__init__()
        self.doubled, self.moves = MODES[config.polarization]
        if self.moves and config.lmax < 1:
            raise UsageError("movable points need vectors: lmax of at least 1")
        widths = [after[VECTOR] for after in irreps] if self.moves else []
        self.maps = nn.ParameterList(nn.Parameter(torch.zeros(width, 1)) for width in widths)

    def step(self, layer: int, features: Features, moving: Tensor) -> Tensor:
        """x~_{t+1} (A, 3) from the features of all 2A points after a layer."""
        if not self.moves:
            return moving
        vectors = features[VECTOR][moving.shape[0] :]  # (A, 3, channels)
        weight = self.maps[layer]
        return moving + (vectors @ weight).squeeze(2) * weight.shape[0] ** -0.5

    def edges(self, graph: Graph, moving: Tensor, cutoff: float) -> Edges:
        """The edges among all senders, with the movable points at ``moving`` (A, 3)."""
        if self.doubled:
            return movable_edges(graph, moving, cutoff)
        topology = neighbours(graph, graph.positions, cutoff)
        return Edges.of(topology, graph.positions, graph.batch, graph.cell)


def check(config: ChargE3NetConfig) -> None:
    """Raises UsageError for settings that do not exist."""
    for label, value, known in (
        ("encoding", config.encoding, RADIALS),
        ("polarization", config.polarization, MODES),
    ):
        if value not in known:
            raise UsageError(f"{label} is one of {', '.join(known)}, not {value!r}")
    if config.pseudoscalar_spin and not config.spin:
        raise UsageError("pseudoscalar_spin says how spin is read: it goes with spin=true")
