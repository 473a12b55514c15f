"""What every model and every network offers, whatever it predicts: the interface of the commands.

Model     what answers: ``PropertyModel`` (models/property.py), ``DensityModel``
          (models/density/model.py), :class:`DynamicsModel` (here)
Network   what the registry names and a checkpoint fills: density and dynamics models
          themselves, and the :class:`Backbone` of a property model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.models.calibration import Calibration, structure_features
from neupol_cli.models.nn.elements import check_elements
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.hermite import Interpolation, Start
from neupol_cli.models.settings import AtomicNumber, Names, Range, Softening, Species, Unit
from neupol_cli.models.targets import readouts_of

if TYPE_CHECKING:
    import ase
    from _typeshed import DataclassInstance

Electrons = Annotated[float, Range(0, 118)]  # of one atom
Task = Literal["property", "density", "dynamics"]
# Arguments of a published network, whatever its authors kept them in: the one place for an Any.
Arguments = Mapping[str, Any]


class Data(TypedDict, total=False):
    """Where a model's training data came from.

    ``source`` and ``fingerprint`` (of the dataset), ``elements`` (atomic numbers that it had).
    """

    source: str
    fingerprint: str
    elements: list[AtomicNumber]


class Measured(TypedDict):
    """A number and its unit."""

    value: float
    unit: str


class FactsRecord(TypedDict):
    """What training structures were like, as neupol_cli/domain/facts.py describes it."""

    structures: int
    atoms: list[int]
    heavy: list[int]
    parts: int
    charges: list[int]
    multiplicities: list[int]
    odd: bool
    molecules: bool
    periodic: bool
    surroundings: list[str]
    bonds: dict[str, list[float]]
    contacts: dict[str, float]
    ranges: dict[str, list[float]]
    fine: bool


class Origin(TypedDict):
    """The trained model that a training went on from: what it was called, and its checksum."""

    source: str
    sha256: str


class Header(TypedDict, total=False):
    """What a checkpoint says of itself; a model that was built and never saved says nothing.

    Attributes:
        model, config: the network's name in the registry, and its settings.
        targets: name -> unit.
        data: what it was trained on.
        valid, test: name -> how far it is off there.
        training: the options of the training.
        start: the trained model that it went on from.
        valence: of a density's pseudopotentials, element -> electrons.
        source: the file of a published network.
        text: what its authors say.
        domain: what its training data were like.
    """

    model: str
    config: dict[str, object]
    targets: dict[str, Unit]
    data: Data
    valid: dict[str, Measured]
    test: dict[str, Measured]
    training: dict[str, object]
    start: Origin
    valence: dict[str, Electrons]
    source: str
    text: str
    domain: FactsRecord


class Network(nn.Module):
    """A class of the registry: built from its ``Config``, filled from our or published weights."""

    Config: ClassVar[type[DataclassInstance]]
    # Weights with a place for each element, and the axis with it: (points an atom, elements, ..).
    by_element: ClassVar[Mapping[str, int]] = {}
    # Weights with a row for each target, as patterns of their names; heads of their own are not.
    by_target: ClassVar[tuple[str, ...]] = ()
    # Weights whose last axis, flattened, is (total, spin) where a density has spin.
    by_column: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[DataclassInstance, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state.

        Raises:
            CheckpointError: they are not this network's, or what they ask for is not built here.
            KeyError: a weight is missing.
        """
        raise NotImplementedError

    @classmethod
    def recognise(cls, content: object) -> tuple[Mapping[str, Tensor], Arguments] | None:
        """A published checkpoint's weights and arguments, or None if it is another network's."""
        return None

    @staticmethod
    def published_units(weights: Mapping[str, Tensor], config: Arguments) -> Arguments:
        """What stands around a published network: ``atomref``, ``mean``, ``std`` or ``mad``."""
        return config


class Model(nn.Module):
    """What answers for structures, with all that a command asks of it.

    Attributes:
        task: what it predicts.
        config: the network's settings.
        header: what its checkpoint says.
        calibration: how far off it may be; None where nobody has looked.
    """

    task: ClassVar[Task]
    config: DataclassInstance
    header: Header
    calibration: Calibration | None

    def __init__(self) -> None:
        super().__init__()
        self.header = {}
        self.calibration = None

    def uncalibrated(self) -> Calibration | None:
        """A calibration of this model's size, with nothing in it yet; None if it can have none."""
        return None

    @property
    def targets(self) -> dict[str, str]:
        """What it predicts: name -> unit."""
        raise NotImplementedError

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that the network has a place for."""
        raise NotImplementedError

    @property
    def cutoff(self) -> float | None:
        """Angstrom; None where every atom sees every other one."""
        raise NotImplementedError

    @property
    def polarization_mode(self) -> str | None:
        """``off``, ``frozen``, ``movable`` or ``late``; None where points cannot be followed."""
        return None

    def movable_points(self, graph: Graph) -> list[Tensor]:
        """x~_0 .. x~_T, each (A, 3) Angstrom; none without Neural Polarization."""
        return []

    @property
    def known_elements(self) -> frozenset[int]:
        """Atomic numbers that it was trained on: those it has a place for, and of these, where its
        checkpoint says so, those that its training data had."""
        trained = self.header.get("data", Data()).get("elements")
        return frozenset(self.species if trained is None else trained)

    @property
    def dtype(self) -> torch.dtype:
        """The type of number that the network computes with."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def check(self, structures: Sequence[ase.Atoms], labels: Sequence[str] | None = None) -> None:
        """Refuses what the model cannot answer for.

        Args:
            structures: to be predicted.
            labels: what messages call them; their numbers by default.

        Raises:
            InputError: an element that it never saw, naming the first such atom and the elements
                that it knows; whatever else a kind of model refuses.
        """
        known = self.known_elements
        for k, structure in enumerate(structures):
            label = labels[k] if labels else f"{k}"
            check_elements(structure, known, label)
            self.check_size(structure, label)

    def check_size(self, structure: ase.Atoms, label: str) -> None:
        """Refuses a structure that is too large for the model, or periodic where it must not be.

        Raises:
            InputError: as the kind of model says.
        """


class DynamicsModel(Model, Network):
    """From particles to their positions some time later, in the data's own units."""

    task: ClassVar[Task] = "dynamics"

    @property
    def targets(self) -> dict[str, str]:
        """Positions, in whatever unit the data has."""
        return self.header.get("targets", {"positions": ""})

    @property
    def species(self) -> tuple[int, ...]:
        """None: particles are charges, not elements."""
        return ()

    @property
    def cutoff(self) -> float | None:
        """None: all particles of a system see one another."""
        return None

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """(B, n, 3) positions and velocities, (B, n) charges -> (B, n, 3) later positions."""
        raise NotImplementedError


@dataclass(frozen=True)
class PropertyConfig:
    """What every property network's configuration has; each adds its own fields.

    Attributes:
        species: atomic numbers that the network knows; others are refused.
        targets: names of the properties, one number a structure each, or a vector.
        units: the unit of each target.
        polarization: ``off``, ``frozen`` or ``movable``.
        softening: within how many Angstrom of each other the lengths and directions between two
            points are softened, where atoms have two of them (models/nn/graph.py). Networks whose
            vectors may vanish soften their lengths, too, with one point an atom as well. 0 leaves
            all as published.
        table_start, interpolation: how the tables of a learned encoding start, and how they are
            read between their bins (models/nn/hermite.py).
        outputs: how each target is read out, one of ``READOUTS`` (models/targets.py) that the
            network has. If empty, every target is a number, read out in the network's own way.
        positive: targets that are kept from being negative (models/bound.py); of published
            networks and older checkpoints none.
        tied: targets that are made of others (models/ties.py); of the same none.
    """

    species: Species = (1, 6, 7, 8, 9)
    targets: Names = ("prediction",)
    units: tuple[Unit, ...] = ("",)
    polarization: str = "off"
    softening: Softening = 0.5
    table_start: Start = "smooth"
    interpolation: Interpolation = "hermite"
    outputs: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()

    @property
    def points_per_atom(self) -> int:
        """How many embeddings an element has: atom, and movable point."""
        return 1 if self.polarization == "off" else 2

    @property
    def kinds(self) -> int:
        """The same, under its earlier name."""
        return self.points_per_atom


class Backbone(Network):
    """A property network, from species and edges to the targets of each structure.

    A subclass sets ``cutoff``, ``irreps`` (of its state, one flat tensor (points, dim)) and
    ``layers`` (each ``layer(state, edges) -> state``), and implements :meth:`embed`,
    :meth:`readout` and, if its points can move, :meth:`projection`. One that reads out more than
    scalars says so in :meth:`known_readouts`, and finds in ``readouts`` what each target wants.
    """

    Config: ClassVar[type[PropertyConfig]] = PropertyConfig
    config: PropertyConfig
    cutoff: float | None = None
    # Whether a layer's answer at a point follows from the edges that it receives: of a large
    # structure they are made a range at a time (models/streaming.py).
    by_ranges: ClassVar[bool] = True
    irreps: str
    layers: nn.ModuleList
    readouts: tuple[str, ...]
    index: Tensor

    def __init__(self, config: PropertyConfig) -> None:
        super().__init__()
        self.config = config
        if len(config.units) != len(config.targets):
            raise UsageError(f"{len(config.targets)} targets have {len(config.units)} units")
        self.readouts = readouts_of(config.targets, config.outputs, self.known_readouts(config))
        self.species_count = len(config.species)
        index = torch.full((120,), -1)
        index[torch.tensor(config.species)] = torch.arange(len(config.species))
        self.register_buffer("index", index, persistent=False)

    def types(self, numbers: Tensor) -> Tensor:
        """(A,) atomic numbers -> (A,) indices into ``config.species``."""
        return self.index.index_select(0, numbers)

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        """(P,) types -> (P, dim) first state; movable points have types from species_count on."""
        raise NotImplementedError

    def forward(self, types: Tensor, edges: Edges) -> Tensor:
        """(P,) types -> (P, dim) last state; without Neural Polarization, whose points move.

        A network that keeps more than one state a point overrides it.
        """
        state = self.embed(types, edges)
        for layer in self.layers:
            state = layer(state, edges)
        return state

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        """(A, dim) last state -> (B, T) all targets' numbers in the network's own units."""
        raise NotImplementedError

    @property
    def invariants(self) -> int:
        """How many numbers of a point's state are scalars: they come first in it."""
        return int(self.irreps.partition("x0e")[0])

    def atom_features(self, state: Tensor) -> Tensor:
        """(A, dim) last state -> (A, invariants) what an atom is to the network."""
        return state[:, : self.invariants]

    def features(self, state: Tensor, graph: Graph) -> Tensor:
        """(A, dim) last state -> (B, invariants + 1) what a structure is to the network.

        The mean of its atoms' invariants, and the log of their number.
        """
        return structure_features(self.atom_features(state), graph)

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        """Which of ``READOUTS`` (models/targets.py) the network has with these settings.

        The one place where a network says whether it has vectors: what trains, checks and refuses
        asks here.
        """
        return ("scalar",)

    def projection(self) -> nn.Module:
        """pi_t of Neural Polarization: (A, dim) state -> (A, 3) displacement in Angstrom.

        Raises:
            UsageError: this network has no vectors by which points could move.
        """
        raise UsageError(
            f"{type(self).__name__} has nothing that moves points: leave polarization off, or "
            "choose egnn, equivariant-transformer, equiformer or painn"
        )
