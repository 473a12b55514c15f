"""What every property network is: a backbone, Neural Polarization around it, units behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from neupol_cli.errors import InputError, TemporaryError, out_of_memory
from neupol_cli.models.base import Arguments, Backbone, Model, PropertyConfig, Task
from neupol_cli.models.batching import PAIRS, RECORD, at_work, batches, held
from neupol_cli.models.bound import bounded, columns_of
from neupol_cli.models.calibration import Calibration, force_features
from neupol_cli.models.derivatives import Derivatives, differentiated
from neupol_cli.models.distance import smoothness
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.neighbours import check_pairs
from neupol_cli.models.polarization import polarized
from neupol_cli.models.soundness import check_finite
from neupol_cli.models.targets import ENERGIES, READOUTS
from neupol_cli.models.ties import mixed, tie_matrix
from neupol_cli.models.workers import in_order

if TYPE_CHECKING:
    import ase

UNCERTAINTY = "_uncertainty"  # behind a target's name: half of its 90 % interval


class PropertyModel(Model):
    """Structures in, properties in their units out.

        y_k = scale_k raw_k + shift_k + sum over atoms of reference_k[species]

    with raw_k of targets that are made of others as models/ties.py says, and those that cannot be
    negative bounded (models/bound.py). ``scale``, ``shift`` (T,)
    and ``reference`` (T, species) are buffers in float64, and so is the sum: a total energy of
    10^4 eV has no room for meV in float32.

    Attributes:
        force_calibration: how far off the force on an atom may be; None where nobody has looked.
    """

    task: ClassVar[Task] = "property"
    config: PropertyConfig
    scale: Tensor
    shift: Tensor
    reference: Tensor
    positive: Tensor
    ties: Tensor
    force_calibration: Calibration | None

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.force_calibration = None
        self.config = backbone.config
        self.backbone = backbone
        self.polarization = polarized(self.config.polarization, backbone)
        targets = len(self.offsets)
        wide = torch.float64
        self.register_buffer("scale", torch.ones(targets, dtype=wide))
        self.register_buffer("shift", torch.zeros(targets, dtype=wide))
        species = len(self.config.species)
        self.register_buffer("reference", torch.zeros(targets, species, dtype=wide))
        positive = columns_of(self.config.positive, self.columns)
        self.register_buffer("positive", positive, persistent=False)
        ties = tie_matrix(self.config.tied, self.columns)
        self.register_buffer("ties", ties, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PropertyModel:
        """Moves and casts as usual, but keeps the three buffers of the units in float64."""
        scale, shift, reference = self.scale, self.shift, self.reference
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        self.shift = shift.to(self.shift.device)
        self.reference = reference.to(self.reference.device)
        return self

    def standardise(self, units: Arguments) -> None:
        """Takes up what a published implementation keeps outside its network, where it is given.

        Args:
            units: ``atomref``, energies of single atoms by atomic number; ``std`` or ``mad``, the
                spread that targets were divided by; ``mean``, what was subtracted before.
        """
        for number, energy in dict(units.get("atomref") or {}).items():
            if int(number) in self.config.species:
                self.reference[:, self.config.species.index(int(number))] = float(energy)
        self.scale.fill_(float(units.get("std", units.get("mad", 1.0))))
        self.shift.fill_(float(units.get("mean", 0.0)))

    @property
    def targets(self) -> dict[str, str]:
        """The properties: name -> unit."""
        return dict(zip(self.config.targets, self.config.units, strict=True))

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that the network has a place for."""
        return self.config.species

    @property
    def cutoff(self) -> float | None:
        """Angstrom; None where every atom sees every other one."""
        return self.backbone.cutoff

    @property
    def polarization_mode(self) -> str:
        """``off``, ``frozen`` or ``movable``."""
        return self.config.polarization

    @property
    def columns(self) -> dict[str, slice]:
        """Which of the network's T outputs are each target's: one, or three of a vector."""
        sizes = [READOUTS[name].size for name in self.backbone.readouts]
        ends = np.cumsum(sizes).tolist()
        return {
            name: slice(end - size, end)
            for name, size, end in zip(self.config.targets, sizes, ends, strict=True)
        }

    @property
    def offsets(self) -> tuple[bool, ...]:
        """(T,) which outputs may have a mean and references added to what the network says."""
        readouts = [READOUTS[name] for name in self.backbone.readouts]
        return tuple(readout.offset for readout in readouts for _ in range(readout.size))

    @property
    def energy(self) -> str:
        """The target whose gradient is a force.

        Raises:
            InputError: there is none; the message lists the targets.
        """
        for name in ENERGIES:
            if name in self.config.targets:
                return name
        known = ", ".join(self.config.targets)
        raise InputError(f"forces need an energy ({' or '.join(ENERGIES)}); this model has {known}")

    def uncalibrated(self) -> Calibration:
        """A calibration of this network's size, with nothing in it yet."""
        return Calibration(self.backbone.invariants + 1, len(self.targets))

    def uncalibrated_forces(self) -> Calibration:
        """The same of forces."""
        return Calibration(self.backbone.invariants + 1, 1)

    def network(self, graph: Graph) -> Tensor:
        """(B, T) the network's own outputs, before units."""
        state, _ = self.polarization(self.backbone, graph)
        return self._read_out(state, graph)

    def _read_out(self, state: Tensor, graph: Graph) -> Tensor:
        raw = self.backbone.readout(state, graph)
        return mixed(raw, self.ties, self.scale) if self.config.tied else raw

    def movable_points(self, graph: Graph) -> list[Tensor]:
        """x~_0 .. x~_{T-1}, each (A, 3) Angstrom; none without Neural Polarization."""
        path: list[Tensor] = self.polarization(self.backbone, graph)[1]
        return path

    def baseline(self, graph: Graph) -> Tensor:
        """(B, T) float64: what the answer would be if the network said zero."""
        types = self.backbone.types(graph.numbers)
        references = self.reference.t().index_select(0, types)  # (A, T)
        sums = references.new_zeros(graph.size, references.shape[1]).index_add(
            0, graph.batch, references
        )
        return sums + self.shift

    def described(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """(B, T) float64 predictions in the targets' units, and (B, F) the features that tell how
        far off they may be."""
        state, values = self._evaluated(graph)
        return values, self.backbone.features(state, graph)

    def described_forces(self, graph: Graph, target: int = 0) -> tuple[Tensor, Tensor]:
        """(A, 3) a target's forces, and (A, F) the features that tell how far off they may be."""
        derivatives = differentiated(self._evaluated, graph, target)
        return -derivatives.slope, self._force_features(derivatives, target)

    def _force_features(self, derivatives: Derivatives, target: int) -> Tensor:
        invariants = self.backbone.atom_features(derivatives.state).detach()
        return force_features(invariants, derivatives.slope.detach(), self.scale[target])

    def bounded_network(self, graph: Graph) -> Tensor:
        """(B, T) the network's own outputs, lifted as far as the bound lifts the answers."""
        raw = self.network(graph)
        if not self.config.positive:
            return raw
        values = self._unbounded(raw, graph)
        lift = bounded(values, self.scale, self.positive) - values
        return raw + (lift / self.scale).to(raw.dtype)

    def _unbounded(self, raw: Tensor, graph: Graph) -> Tensor:
        return raw.double() * self.scale + self.baseline(graph)

    def _in_units(self, raw: Tensor, graph: Graph) -> Tensor:
        values = self._unbounded(raw, graph)
        return bounded(values, self.scale, self.positive) if self.config.positive else values

    def forward(self, graph: Graph, widths: bool = False) -> Tensor:
        """(B, T) float64 predictions in the targets' units.

        With ``widths``, which need a calibration, (B, T + targets): behind them half of each
        target's 90 % interval (of a vector, of its distance from the truth).
        """
        return self._evaluated(graph, widths)[1]

    def _evaluated(self, graph: Graph, widths: bool = False) -> tuple[Tensor, Tensor]:
        """(A, dim) the network's last state, and what :meth:`forward` answers."""
        state, _ = self.polarization(self.backbone, graph)
        values = self._in_units(self._read_out(state, graph), graph)
        if not widths or self.calibration is None:
            return state, values
        with torch.no_grad():
            half = self.calibration(self.backbone.features(state, graph))
        return state, torch.cat((values, half.double()), 1)

    def derivatives(
        self,
        graph: Graph,
        target: int = 0,
        stress: bool = False,
        create_graph: bool = False,
        widths: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A target, its negative gradient and, for periodic structures, the stress.

        Args:
            graph: the structures.
            target: index of the energy among the targets.
            stress: whether to differentiate by a strain of positions and cell too.
            create_graph: whether the derivatives will be differentiated again (training).
            widths: whether half-widths stand behind the predictions, see :meth:`forward`, and,
                where they are calibrated, behind the forces: (A, 4), of the length of an error.

        Returns:
            (B, T) predictions; (A, 3) forces in the target's unit an Angstrom;
            (B, 3, 3) stress in that unit an Angstrom^3, or None.
        """
        evaluate = partial(self._evaluated, widths=widths)
        derivatives = differentiated(evaluate, graph, target, stress, create_graph)
        forces = -derivatives.slope
        if widths and self.force_calibration is not None:
            with torch.no_grad():
                radii = self.force_calibration(self._force_features(derivatives, target))
            forces = torch.cat((forces, radii), 1)
        if derivatives.by_strain is None:
            return derivatives.values, forces, None
        if graph.cell is None:
            raise InputError("a stress needs a periodic structure")
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        return derivatives.values, forces, derivatives.by_strain / volume

    def smoothness(self) -> Tensor | None:
        """L_smooth, averaged over the learned encodings; None if there is none."""
        return smoothness(self.backbone)

    def check_size(self, structure: ase.Atoms, label: str) -> None:
        """Refuses what a model without a cutoff, which joins all pairs, cannot take.

        Raises:
            InputError: a periodic structure, or an enormous one, without a cutoff.
        """
        if self.cutoff is None:
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
        pairs: int = PAIRS,
        labels: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Properties of structures, in batches of about ``pairs`` pairs of atoms.

        Forces keep a record of every step, and twice the points have four times the pairs: batches
        are the smaller for it. One that does not fit in memory is halved, down to one structure.
        ``labels`` are what messages call the structures.

        Returns:
            name -> (N,) for each target in its unit, (N, 3) where it is a vector; of a calibrated
            model name_uncertainty -> (N,), half of its 90 % interval; with ``forces``, "forces"
            (A, 3), atoms of all structures one behind the other, and where these are calibrated
            "forces_uncertainty" (A,), the radius of the ball that holds the true one nine times in
            ten; with ``stress``, "stress" (N, 3, 3).

        Raises:
            InputError: an element that the network never saw.
            TemporaryError: a single structure does not fit in memory.
            DivergedError: an answer is not finite.
        """
        self.check(structures, labels)
        pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        together = batches([len(s) for s in structures], pairs // self._copies(forces or stress))
        parts = ([structures[k] for k in batch] for batch in together)
        for piece in in_order(lambda part: self._predict(part, forces, stress), parts):
            pieces += piece
        values, forced, stressed = (torch.cat(column) for column in zip(*pieces, strict=True))
        result = {name: values[:, place].numpy() for name, place in self.columns.items()}
        result = {name: v[:, 0] if v.shape[1] == 1 else v for name, v in result.items()}
        if self.calibration is not None:
            half = values[:, len(self.offsets) :].numpy()
            result |= {name + UNCERTAINTY: half[:, k] for k, name in enumerate(self.targets)}
        if forces:
            result["forces"] = forced[:, :3].contiguous().numpy()
            if self.force_calibration is not None:
                result["forces" + UNCERTAINTY] = forced[:, 3].numpy()
        if stress:
            result["stress"] = stressed.numpy()
        check_finite(result, structures, labels)
        return result

    def _predict(
        self, structures: Sequence[ase.Atoms], forces: bool, stress: bool
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        try:
            copies = self._copies(forces or stress)
            with at_work.taken(held([len(s) for s in structures], self.cutoff, copies)):
                graph = Graph.from_atoms(structures, self.dtype, self.device)
                return [self._evaluate(graph, forces, stress)]
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(structures) == 1:
                raise TemporaryError(
                    f"out of memory on {len(structures[0])} atoms: {error}"
                ) from error
        half = len(structures) // 2
        first = self._predict(structures[:half], forces, stress)
        return first + self._predict(structures[half:], forces, stress)

    def _copies(self, recorded: bool) -> int:
        """By how much more there is of a pair: records, and kinds of points."""
        return self.config.kinds**2 * (RECORD if recorded else 1)

    def _evaluate(self, graph: Graph, forces: bool, stress: bool) -> tuple[Tensor, Tensor, Tensor]:
        nothing = torch.empty(0)
        if not forces and not stress:
            with torch.no_grad():
                return self(graph, widths=True).cpu(), nothing, nothing
        energy = self.columns[self.energy].start
        values, force, strain = self.derivatives(graph, energy, stress, widths=True)
        strain = nothing if strain is None else strain
        return values.detach().cpu(), force.double().cpu(), strain.double().cpu()
