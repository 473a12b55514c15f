"""What every property network is: a backbone, Neural Polarization around it, units behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.errors import BadInput, TryAgain, out_of_memory
from neupol_cli.models.distance import smoothness
from neupol_cli.models.graph import Graph, check_pairs
from neupol_cli.models.polarization import mode
from neupol_cli.structures import check_elements

if TYPE_CHECKING:
    import ase
    import numpy as np


RECORD = 4  # what a record of every step, from which forces are made, adds to memory: a factor
# Targets whose negative gradient is a force, in the order of preference.
ENERGIES = ("energy", "U0")


@dataclass(frozen=True)
class PropertyConfig:
    """What every property network's configuration has; each adds its own fields.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        targets: names of the properties, one number a structure each.
        units: the unit of each target.
        polarization: ``off``, ``frozen`` or ``movable``.
    """

    species: tuple[int, ...] = (1, 6, 7, 8, 9)
    targets: tuple[str, ...] = ("prediction",)
    units: tuple[str, ...] = ("",)
    polarization: str = "off"

    @property
    def kinds(self) -> int:
        """How many embeddings an element has: atom, and movable point."""
        return 1 if self.polarization == "off" else 2


class Backbone(nn.Module):
    """A network from species and edges to one number a structure and target.

    A subclass sets ``cutoff``, ``irreps`` (of its state, one flat tensor (points, dim)) and
    ``layers`` (each ``layer(state, edges) -> state``), and implements :meth:`embed`,
    :meth:`readout` and, if its points can move, :meth:`projection`.
    """

    Config: ClassVar[type[PropertyConfig]] = PropertyConfig
    cutoff: float | None = None
    irreps: str
    layers: nn.ModuleList
    index: Tensor

    def __init__(self, config: PropertyConfig) -> None:
        super().__init__()
        self.config = config
        self.species_count = len(config.species)
        index = torch.full((120,), -1)
        index[torch.tensor(config.species)] = torch.arange(len(config.species))
        self.register_buffer("index", index, persistent=False)

    def types(self, numbers: Tensor) -> Tensor:
        """(A,) atomic numbers -> (A,) indices into ``config.species``."""
        return self.index.index_select(0, numbers)

    def embed(self, types: Tensor, edges: Any) -> Tensor:
        """(P,) types -> (P, dim) first state; movable points have types from species_count on."""
        raise NotImplementedError

    def forward(self, types: Tensor, edges: Any) -> Tensor:
        """(P,) types -> (P, dim) last state; without Neural Polarization, whose points move.

        A network that keeps more than one state a point overrides it.
        """
        state = self.embed(types, edges)
        for layer in self.layers:
            state = layer(state, edges)
        return state

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        """(A, dim) last state -> (B, targets) in the network's own units."""
        raise NotImplementedError

    @property
    def offsets(self) -> tuple[bool, ...]:
        """Which targets may have a mean and references added to what the network says."""
        return (True,) * len(self.config.targets)

    @staticmethod
    def published_units(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What stands around a published network, as :meth:`PropertyModel.standardise` takes it."""
        return config

    def projection(self) -> nn.Module:
        """pi_t of Neural Polarization: (A, dim) state -> (A, 3) displacement in Angstrom."""
        raise NotImplementedError


class PropertyModel(nn.Module):
    """Structures in, properties in their units out.

        y_k = scale_k raw_k + shift_k + sum over atoms of reference_k[species]

    ``scale``, ``shift`` (T,) and ``reference`` (T, species) are buffers in float64, and so is the
    sum: a total energy of 10^4 eV has no room for meV in float32.
    """

    scale: Tensor
    shift: Tensor
    reference: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.config = backbone.config
        self.backbone = backbone
        self.polarization = mode(self.config.polarization, backbone)
        targets = len(self.config.targets)
        wide = torch.float64
        self.register_buffer("scale", torch.ones(targets, dtype=wide))
        self.register_buffer("shift", torch.zeros(targets, dtype=wide))
        species = len(self.config.species)
        self.register_buffer("reference", torch.zeros(targets, species, dtype=wide))

    def _apply(self, fn: Any, recurse: bool = True) -> PropertyModel:
        """Moves and casts as usual, but keeps the three buffers of the units in float64."""
        kept = {name: getattr(self, name) for name in ("scale", "shift", "reference")}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    def standardise(self, told: Mapping[str, Any]) -> None:
        """Takes up what a published implementation keeps outside its network, where it is told.

        Args:
            told: ``atomref``, energies of single atoms by atomic number; ``std`` or ``mad``, the
                spread that targets were divided by; ``mean``, what was subtracted before.
        """
        for number, energy in dict(told.get("atomref") or {}).items():
            if int(number) in self.config.species:
                self.reference[:, self.config.species.index(int(number))] = float(energy)
        self.scale.fill_(float(told.get("std", told.get("mad", 1.0))))
        self.shift.fill_(float(told.get("mean", 0.0)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of number that the network computes with."""
        return next(self.backbone.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.scale.device

    @property
    def energy(self) -> str:
        """The target whose gradient is a force.

        Raises:
            BadInput: there is none; the message lists the targets.
        """
        for name in ENERGIES:
            if name in self.config.targets:
                return name
        known = ", ".join(self.config.targets)
        raise BadInput(f"forces need an energy ({' or '.join(ENERGIES)}); this model has {known}")

    def network(self, graph: Graph) -> Tensor:
        """(B, T) the network's own outputs, before units."""
        state, _ = self.polarization(self.backbone, graph)
        return self.backbone.readout(state, graph)

    def movable_points(self, graph: Graph) -> list[Tensor]:
        """x~_0 .. x~_{T-1}, each (A, 3) Angstrom; none without Neural Polarization."""
        path: list[Tensor] = self.polarization(self.backbone, graph)[1]
        return path

    def baseline(self, graph: Graph) -> Tensor:
        """(B, T) float64: what the answer would be if the network said zero."""
        types = self.backbone.types(graph.numbers)
        each = self.reference.t().index_select(0, types)  # (A, T)
        sums = each.new_zeros(graph.size, each.shape[1]).index_add(0, graph.batch, each)
        return sums + self.shift

    def forward(self, graph: Graph) -> Tensor:
        """(B, T) float64 predictions in the targets' units."""
        return self.network(graph).double() * self.scale + self.baseline(graph)

    def derivatives(
        self, graph: Graph, target: int = 0, stress: bool = False, create_graph: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A target, its negative gradient and, for periodic structures, the stress.

        Args:
            graph: the structures.
            target: index of the energy among the targets.
            stress: whether to differentiate by a strain of positions and cell too.
            create_graph: whether the derivatives will be differentiated again (training).

        Returns:
            (B, T) predictions; (A, 3) forces in the target's unit an Angstrom;
            (B, 3, 3) stress in that unit an Angstrom^3, or None.
        """
        with torch.enable_grad():
            positions = graph.positions.detach().requires_grad_()
            strain = positions.new_zeros(graph.size, 3, 3, requires_grad=stress)
            values = self(
                self._strained(graph, positions, strain) if stress else graph.at(positions)
            )
            inputs = [positions, strain] if stress else [positions]
            gradients = torch.autograd.grad(
                values[:, target].sum(), inputs, create_graph=create_graph
            )
        if not stress:
            return values, -gradients[0], None
        if graph.cell is None:
            raise BadInput("a stress needs a periodic structure")
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        return values, -gradients[0], gradients[1] / volume

    @staticmethod
    def _strained(graph: Graph, positions: Tensor, strain: Tensor) -> Graph:
        """The graph under a symmetric strain of space, x -> x (1 + e)."""
        symmetric = 0.5 * (strain + strain.transpose(1, 2))
        each = symmetric.index_select(0, graph.batch)
        moved = positions + torch.einsum("ax,axy->ay", positions, each)
        cell = None if graph.cell is None else graph.cell + graph.cell @ symmetric
        return graph.at(moved, cell)

    def smoothness(self) -> Tensor | None:
        """L_smooth, averaged over the learned encodings; None if there is none."""
        return smoothness(self.backbone)

    def check(self, structures: Sequence[ase.Atoms], labels: Sequence[str] | None = None) -> None:
        """Refuses what the network cannot answer for.

        Raises:
            BadInput: an element that it never saw, naming the first such atom and the elements
                that it knows; a periodic structure, or an enormous one, without a cutoff.
        """
        known = registry.known_elements(self)
        for k, structure in enumerate(structures):
            label = labels[k] if labels else f"{k}"
            check_elements(structure, known, label)
            if self.backbone.cutoff is None:
                check_pairs(len(structure), bool(structure.pbc.any()), label)

    @torch.no_grad()
    def raw(self, structures: Sequence[ase.Atoms]) -> Tensor:
        """(B,) the network's own output of its first target."""
        self.check(structures)
        return self.network(Graph.from_atoms(structures, self.dtype, self.device))[:, 0]

    def predict(
        self,
        structures: Sequence[ase.Atoms],
        forces: bool = False,
        stress: bool = False,
        pairs: int = 2_000_000,
    ) -> dict[str, np.ndarray]:
        """Properties of structures, in batches of about ``pairs`` pairs of atoms.

        Forces keep a record of every step, and twice the points have four times the pairs: batches
        are the smaller for it. One that does not fit in memory is halved, down to one structure.

        Returns:
            name -> (N,) for each target in its unit; with ``forces``, "forces" (A, 3), atoms of all
            structures one behind the other; with ``stress``, "stress" (N, 3, 3).

        Raises:
            BadInput: an element that the network never saw.
            TryAgain: a single structure does not fit in memory.
        """
        self.check(structures)
        pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        dear = self.config.kinds**2 * (RECORD if forces or stress else 1)
        for batch in _batches([len(s) for s in structures], pairs // dear):
            pieces += self._predict([structures[k] for k in batch], forces, stress)
        values, forced, stressed = (torch.cat(column) for column in zip(*pieces, strict=True))
        result = {name: values[:, k].numpy() for k, name in enumerate(self.config.targets)}
        if forces:
            result["forces"] = forced.numpy()
        if stress:
            result["stress"] = stressed.numpy()
        return result

    def _predict(
        self, structures: Sequence[ase.Atoms], forces: bool, stress: bool
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        try:
            graph = Graph.from_atoms(structures, self.dtype, self.device)
            return [self._evaluate(graph, forces, stress)]
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(structures) == 1:
                raise TryAgain(f"out of memory on {len(structures[0])} atoms: {error}") from error
        half = len(structures) // 2
        first = self._predict(structures[:half], forces, stress)
        return first + self._predict(structures[half:], forces, stress)

    def _evaluate(self, graph: Graph, forces: bool, stress: bool) -> tuple[Tensor, Tensor, Tensor]:
        nothing = torch.empty(0)
        if not forces and not stress:
            with torch.no_grad():
                return self(graph).cpu(), nothing, nothing
        energy = self.config.targets.index(self.energy)
        values, force, strain = self.derivatives(graph, energy, stress)
        strain = nothing if strain is None else strain
        return values.detach().cpu(), force.double().cpu(), strain.double().cpu()


def _batches(counts: Sequence[int], pairs: int) -> list[list[int]]:
    """Consecutive structures together, as long as their pairs stay within ``pairs``."""
    batches: list[list[int]] = [[]]
    total = 0
    for k, count in enumerate(counts):
        if batches[-1] and total + count * count > pairs:
            batches.append([])
            total = 0
        batches[-1].append(k)
        total += count * count
    return [batch for batch in batches if batch]
