"""Learning properties, and energies with forces, from structures that stay on the device.

A batch is slicing: the whole set lies in flat arrays where the model is, so there are no worker
processes and no loop over molecules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.domain.of_dataset import facts_of_dataset
from neupol_cli.errors import UsageError
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.base import FactsRecord, Model
from neupol_cli.models.nn.graph import ragged
from neupol_cli.models.property import PropertyModel
from neupol_cli.models.targets import READOUTS
from neupol_cli.models.workers import in_order
from neupol_cli.targets import FORCES, target
from neupol_cli.training import calibrating
from neupol_cli.training.arrays import Arrays, sent
from neupol_cli.training.building import built
from neupol_cli.training.epoch_sampler import batches
from neupol_cli.training.labels import (
    bounded_targets,
    chosen_targets,
    label_columns,
    label_of,
    learnt_by_length,
    outputs_of,
)
from neupol_cli.training.request import (
    Request,
    chosen_partition,
    chosen_species,
    training_data,
)
from neupol_cli.training.start import Start, carried, ties
from neupol_cli.training.target_normalization import (
    ANY,
    LEVEL,
    NOTHING,
    SUM,
    Baseline,
    TargetNormalization,
    composition,
    corrections,
    normalization_of,
    vector_scale,
)

Value = TypeVar("Value")
TOGETHER = "weighted error"  # the one number of several targets
REFITTED = 2048  # training structures that references are refitted to, where training goes on
PIECE_ATOMS = 256  # a piece of a batch that a core of a CPU differentiates
EVALUATION_ATOMS = 2048  # a batch of evaluation, on a core of a CPU

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


class PropertyTask:
    """T targets of structures, standardised, and the forces of the first where asked for.

    A target is a number or a vector; a vector is learnt from vectors or from their lengths.

    Loss: sum_k w_k mean |error_k| / sum_k w_k (or squared), errors in units of each target's
    scale; energies and forces share one scale, the forces' root mean square unless another is asked
    for, so that the forces remain the energy's derivative. Errors of `evaluate`: mean absolute, in
    the targets' units.

    What cannot be negative is learnt as the network says it, before the bound (models/bound.py),
    which would leave no gradient to one that is far below; it counts in `evaluate`.
    """

    def __init__(
        self,
        model: PropertyModel,
        dataset: Dataset,
        names: tuple[str, ...],
        forces: bool,
        split: dict[str, np.ndarray],
        request: Request,
    ) -> None:
        self.model, self.dataset = model, dataset
        self.species: tuple[int, ...] = model.config.species
        self.kinds: int = model.config.kinds  # points an atom
        self.baselines = baselines(model, request.tied)
        self.columns: dict[str, slice] = model.columns
        device, dtype = model.device, model.dtype
        self.arrays = Arrays.of(dataset, device, dtype)
        self.splits = {k: torch.from_numpy(np.asarray(v)) for k, v in split.items()}  # on the host
        self.size = len(split["train"])
        self.grain = math.ceil(PIECE_ATOMS / dataset.counts[split["train"]].mean() / self.kinds)
        self.names, self.request = names, request
        self.by_length = {name for name in names if learnt_by_length(dataset, name)}
        values = np.concatenate([label_columns(dataset, name) for name in names], 1)
        self.values = torch.from_numpy(values).to(device)  # (N, C) float64
        self.forces: Tensor | None = None
        if forces:
            self.forces = torch.from_numpy(dataset.targets[FORCES].values).to(device, dtype)
        counts = composition(dataset.numbers, dataset.offsets, self.species)
        self._learn(self._standardise(dataset, counts, values, split["train"]), values, counts)
        self.penalty = _choice(PENALTIES, request.loss, "--loss")
        self.labels = [*names, *([FORCES] if forces else [])]
        self.weights = _weights(self.labels, request, forces, dtype).to(device)
        self.units = {name: label_of(dataset, name).unit for name in self.labels}
        self.metric = self.labels[0]
        if len(self.labels) > 1:
            self.metric, self.units[TOGETHER] = TOGETHER, ""
        self.meta: dict[str, object] = {
            "targets": {name: self.units[name] for name in self.labels},
            "data": training_data(dataset, split["train"]),
        }
        if request.start is not None:
            self._go_on(request.start, values, counts)
        if request.smoothness and model.smoothness() is None:
            raise UsageError("--smoothness needs a learned encoding: add --encoding learned")

    def domain(self, check: Callable[[], None]) -> FactsRecord:
        """See `task.Task`."""
        splits = {name: indices.numpy() for name, indices in self.splits.items()}
        return facts_of_dataset(self.dataset, splits, check).record()

    def calibrate(self, model: Model, check: Callable[[], None]) -> dict[str, Tensor]:
        """See `task.Task`."""
        assert isinstance(model, PropertyModel)  # the one that is trained here
        known = calibrating.Labelled(self.arrays, self.values, self.by_length, self.forces)
        return calibrating.calibrate(model, known, self.splits, self._evaluation_batch(), check)

    def _standardise(
        self, dataset: Dataset, counts: np.ndarray, values: np.ndarray, train: np.ndarray
    ) -> TargetNormalization:
        species: tuple[int, ...] = self.species
        there = {z for z, count in zip(species, counts.sum(0), strict=True) if count}
        atoms = {
            name: np.array([table.get(z, 0.0) for z in species])
            for name, table in dataset.references.items()
            if there <= table.keys()
        }
        normalization = normalization_of(
            values[train],
            counts[train],
            tuple(n for n, place in self.columns.items() for _ in range(place.stop - place.start)),
            self.request.references,
            self.request.scale,
            atoms,
            self.baselines,
        )
        for place in self.columns.values():
            if place.stop - place.start > 1:  # a scale an axis would turn with no structure
                normalization.scale[place] = vector_scale(values[train, place], self.request.scale)
        if self.forces is None or self.request.scale != "auto":
            return normalization
        rows, _ = ragged(torch.from_numpy(dataset.offsets), torch.from_numpy(np.asarray(train)))
        size = float(np.sqrt(np.square(dataset.targets[FORCES].values[rows.numpy()]).mean()))
        return TargetNormalization(
            normalization.references,
            normalization.shift,
            np.full_like(normalization.scale, size or 1.0),
        )

    def _learn(
        self, normalization: TargetNormalization, values: np.ndarray, counts: np.ndarray
    ) -> None:
        """Takes these units: the model answers in them, the network learns what is left."""
        normalization = normalization.tied(self.model.ties.cpu().numpy())
        self.normalization = normalization
        _store(self.model, normalization)
        learnt = torch.from_numpy(normalization.applied(values, counts))
        self.learnt = learnt.to(self.model.device, self.model.dtype)  # (N, C)

    def _go_on(self, start: Start, values: np.ndarray, counts: np.ndarray) -> None:
        """Takes the units of a trained model for what it knows.

        With fitted references what it is off by goes into them: another method's energies differ
        most in the atoms'.
        """
        normalization, known = carried(self.normalization, self.model, start)
        if known.any() and self.request.scale != "auto":
            raise UsageError("--scale: what --from knows already keeps the scale that it has")
        if known.any() and self.request.references == "atoms":
            raise UsageError(
                "--references atoms: what --from knows keeps its own, refitted (fitted) or as they "
                "are (none)"
            )
        self._learn(normalization, values, counts)
        if self.request.references != "fitted":
            return
        rows, errors = self._left_over()
        references, shift = corrections(errors, counts[rows], self.baselines)
        refitted = np.array([kind != NOTHING for kind in self.baselines]) & known
        self._learn(
            TargetNormalization(
                normalization.references + np.where(refitted[:, None], references, 0.0),
                normalization.shift + np.where(refitted, shift, 0.0),
                normalization.scale,
            ),
            values,
            counts,
        )

    def _left_over(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) random training structures, and (n, C) labels less answers, in units."""
        generator = torch.Generator().manual_seed(self.request.seed)
        order = torch.randperm(self.size, generator=generator)[:REFITTED]
        chosen = self.splits["train"][order]
        pieces = batches(chosen, self._evaluation_batch())
        self.model.eval()
        errors = np.concatenate([self._labels_less_answers(some) for some in pieces])
        self.model.train()
        return chosen.numpy(), errors * self.normalization.scale

    def _labels_less_answers(self, some: Tensor) -> np.ndarray:
        """(b, C) of some structures, in units of the scale; zero for vectors."""
        errors = np.zeros((len(some), len(self.baselines)))
        with torch.set_grad_enabled(self.forces is not None):
            by_label = self._errors(some, training=False)
        for name, error in zip(self.names, by_label, strict=False):
            if error.dim() == 1 and name not in self.by_length:
                errors[:, self.columns[name].start] = -error.detach().cpu().numpy()
        return errors

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `task.Task`."""
        whole = indices if whole is None else whole
        errors = self._errors(self.splits["train"][indices], training=True)
        numbers = self._numbers(errors, indices, whole)
        sums = zip(errors, numbers, strict=True)
        losses = torch.stack([self.penalty(error).sum() / number for error, number in sums])  # (T,)
        loss = (losses * self.weights).sum() / self.weights.sum()
        parts = dict(zip(self.labels, losses.unbind(), strict=True)) if len(self.labels) > 1 else {}
        if self.request.smoothness:
            rough = self.model.smoothness()
            assert rough is not None  # there is a learned encoding
            rough = rough * (len(indices) / len(whole))
            loss = loss + self.request.smoothness * rough
            parts["smoothness"] = rough
        return loss, parts

    def _numbers(self, errors: list[Tensor], indices: Tensor, whole: Tensor) -> list[int]:
        """How many errors of each label a whole batch has, of which ``indices`` have ``errors``."""
        numbers = [error.numel() * len(whole) // len(indices) for error in errors]
        if self.forces is not None and whole is not indices:
            chosen = self.splits["train"][whole]
            numbers[-1] = 3 * int(self.arrays.counts[chosen].sum())
        return numbers

    def _errors(self, chosen: Tensor, training: bool) -> list[Tensor]:
        """Errors of each label in units of its scale: (b,) a number, (b, 3) a vector, (a, 3) of
        the forces."""
        graph, rows = self.arrays.graph(chosen)
        chosen = sent(chosen, self.values.device)
        if self.forces is None:
            ask = self.model.network if training else self.model.bounded_network
            predicted, reference = ask(graph), self.learnt[chosen]
            if predicted.shape[1] == len(self.names):
                return list((predicted - reference).unbind(1))
            pairs = [(n, predicted[:, p], reference[:, p]) for n, p in self.columns.items()]
            return [self._error(*pair) for pair in pairs]
        values, forces, _ = self.model.derivatives(graph, create_graph=training)
        scale = self.model.scale
        energies = (values - self.values[chosen]) / scale
        pulled = (forces - self.forces[rows]) / scale[0].to(forces.dtype)
        return [*energies.to(forces.dtype).unbind(1), pulled]

    def _error(self, name: str, predicted: Tensor, reference: Tensor) -> Tensor:
        """(b, 1) or (b, 3) of both -> (b,) or, of a vector that is learnt as one, (b, 3)."""
        if name in self.by_length:
            return torch.linalg.vector_norm(predicted, dim=1) - reference[:, 0]
        return (predicted - reference).squeeze(1)

    def evaluate(
        self, split: str, model: Model, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        """Mean absolute errors by label in their units; see `task.Task`."""
        indices = self.splits[split]
        if not len(indices):
            return {}
        sums = torch.zeros(len(self.labels), dtype=torch.float64, device=self.values.device)
        counts = [0] * len(self.labels)

        def wrong(chosen: Tensor) -> list[Tensor]:
            with torch.set_grad_enabled(self.forces is not None):
                return [error.detach().abs() for error in self._errors(chosen, training=False)]

        parts = batches(group.shard(indices), self._evaluation_batch())
        for errors in in_order(wrong, parts, apart=True):
            check()
            sums += torch.stack([error.double().sum() for error in errors])
            counts = [n + error.numel() for n, error in zip(counts, errors, strict=True)]
        total, count = group.all_reduce(torch.stack((sums, sums.new_tensor(counts)))).cpu()
        means = total / count
        starts = [place.start for place in self.columns.values()]
        scales = torch.from_numpy(self.normalization.scale)[starts]
        if self.forces is not None:
            scales = scales[:1].expand(len(self.labels))
        by_label = dict(zip(self.labels, (means * scales).tolist(), strict=True))
        if len(self.labels) > 1:
            weights = self.weights.cpu().double()
            by_label[TOGETHER] = float((means * weights).sum() / weights.sum())
        return by_label

    def _evaluation_batch(self) -> int:
        atoms = EVALUATION_ATOMS * (1 if self.values.device.type == "cpu" else 32)
        atoms_each = self.arrays.numbers.shape[0] / (self.arrays.offsets.shape[0] - 1)
        # A record of every step, where forces are made.
        copies = 4 if self.forces is not None else 1
        pairs = self.kinds**2  # twice the points have four times the pairs
        return max(1, int(atoms / atoms_each / copies / pairs))


def baselines(model: PropertyModel, tied: bool) -> tuple[Baseline, ...]:
    """(T) what may be taken off each of the network's outputs.

    ``tied``: whether extensive targets are sums over atoms and nothing else.
    """
    readouts = zip(model.columns.items(), model.backbone.readouts, strict=True)
    return tuple(
        _baseline(name, readout, tied)
        for (name, place), readout in readouts
        for _ in range(place.stop - place.start)
    )


def _baseline(name: str, readout: str, tied: bool) -> Baseline:
    if not READOUTS[readout].offset:
        return NOTHING
    if readout == "level":
        return LEVEL
    return SUM if tied and target(name).extensive else ANY


def _store(model: PropertyModel, normalization: TargetNormalization) -> None:
    """Puts the standardisation into the model, so that it answers in the targets' units."""
    model.reference.copy_(torch.from_numpy(normalization.references))
    model.shift.copy_(torch.from_numpy(normalization.shift))
    model.scale.copy_(torch.from_numpy(normalization.scale))


def _choice(table: Mapping[str, Value], name: str, option: str) -> Value:
    if name not in table:
        raise UsageError(f"{option} is one of {', '.join(table)}, not {name!r}")
    return table[name]


def _weights(labels: list[str], request: Request, forces: bool, dtype: torch.dtype) -> Tensor:
    """(T,) the weight of each label; 0.2 and 0.8 of energy and forces, as TorchMD-NET, else 1."""
    for name in request.weights:
        if name not in labels:
            raise UsageError(f"--weight {name}: is not trained here; there are {', '.join(labels)}")
    default = dict.fromkeys(labels, 0.2) | {FORCES: 0.8} if forces else {}
    weights = [request.weights.get(name, default.get(name, 1.0)) for name in labels]
    if not any(weights):
        raise UsageError("--weight: with weights of zero alone there is nothing to learn")
    return torch.tensor(weights, dtype=dtype)


def property_task(name: str, dataset: Dataset, request: Request) -> PropertyTask:
    """Builds the model called ``name`` for a dataset and the task of training it.

    Raises:
        InputError, UsageError: where data, model and request do not fit together.
    """
    names, forces = chosen_targets(dataset, request)
    split = chosen_partition(dataset, request)
    config = {
        **outputs_of(name, dataset, names, request.config),
        **request.config,
        "species": chosen_species(dataset, request),
        "targets": list(names),
        "units": [label_of(dataset, target).unit for target in names],
    }
    if request.bounded:
        config = {"positive": bounded_targets(name, dataset, names, config), **config}
    if request.tied:
        config = {"tied": ties(names, request.start), **config}
    model = built(name, config, request)
    assert isinstance(model, PropertyModel)  # as the registry says of this task
    return PropertyTask(model, dataset, names, forces, split, request)
