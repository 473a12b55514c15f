"""Learning properties, and energies with forces, from structures that stay on the device.

A batch is slicing: the whole set lies in flat arrays where the model is, so there are no worker
processes and no loop over molecules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.devices import default_dtype, device_named
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.nn.graph import Graph, ragged
from neupol_cli.models.property import ENERGIES
from neupol_cli.training.epoch_sampler import batches
from neupol_cli.training.request import Request, chosen_partition, training_data
from neupol_cli.training.target_normalization import (
    TargetNormalization,
    composition,
    normalization_of,
)

FORCES = "forces"
TOGETHER = "weighted error"  # the one number of several targets
EVALUATION_ATOMS = 8192  # a batch of evaluation, on a CPU; larger ones only leave its caches

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


@dataclass(frozen=True)
class Arrays:
    """A dataset on a device: N structures, A atoms, flat."""

    numbers: Tensor  # (A,)
    positions: Tensor  # (A, 3) Angstrom
    offsets: Tensor  # (N + 1,)
    cell: Tensor | None  # (N, 3, 3) Angstrom
    pbc: Tensor | None  # (N, 3)

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> Arrays:
        periodic = dataset.pbc is not None and bool(dataset.pbc.any())

        def put(values: np.ndarray | None, kind: torch.dtype) -> Tensor | None:
            return (
                torch.from_numpy(values).to(device, kind)
                if periodic and values is not None
                else None
            )

        return cls(
            torch.from_numpy(dataset.numbers).to(device),
            torch.from_numpy(dataset.positions).to(device, dtype),
            torch.from_numpy(dataset.offsets).to(device),
            put(dataset.cell, dtype),
            put(dataset.pbc, torch.bool),
        )

    def graph(self, indices: Tensor) -> tuple[Graph, Tensor]:
        """The batch of some structures (b,), and the rows (a,) of their atoms."""
        rows, counts = ragged(self.offsets, indices)
        cell = None if self.cell is None else self.cell[indices]
        pbc = None if self.pbc is None else self.pbc[indices]
        graph = Graph.from_arrays(self.numbers[rows], self.positions[rows], counts, cell, pbc)
        return graph, rows


class PropertyTask:
    """T numbers a structure, standardised, and the forces of the first where asked for.

    Loss: sum_k w_k mean |error_k| / sum_k w_k (or squared), errors in units of each target's
    scale; energies and forces share one scale, the forces' root mean square unless another is asked
    for, so that the forces remain the energy's derivative. Errors of `evaluate`: mean absolute, in
    the targets' units.
    """

    def __init__(
        self,
        model: Any,
        dataset: Dataset,
        names: tuple[str, ...],
        forces: bool,
        split: dict[str, np.ndarray],
        request: Request,
    ) -> None:
        self.model: nn.Module = model
        self.species: tuple[int, ...] = model.config.species
        self.kinds: int = model.config.kinds  # points an atom
        self.offsets: tuple[bool, ...] = model.backbone.offsets
        device, dtype = model.device, model.dtype
        self.arrays = Arrays.of(dataset, device, dtype)
        self.splits = {k: torch.from_numpy(np.asarray(v)).to(device) for k, v in split.items()}
        self.size = len(split["train"])
        self.names, self.request = names, request
        values = np.stack([dataset.targets[name].values for name in names], 1)
        self.values = torch.from_numpy(values).to(device)  # (N, T) float64
        self.forces: Tensor | None = None
        if forces:
            self.forces = torch.from_numpy(dataset.targets[FORCES].values).to(device, dtype)
        counts = composition(dataset.numbers, dataset.offsets, self.species)
        self.normalization = self._standardise(dataset, counts, values, split["train"])
        _store(model, self.normalization)
        learnt = torch.from_numpy(self.normalization.applied(values, counts))
        self.learnt = learnt.to(device, dtype)  # (N, T)
        self.penalty = _choice(PENALTIES, request.loss, "--loss")
        self.labels = [*names, *([FORCES] if forces else [])]
        self.weights = _weights(self.labels, request, forces, dtype).to(device)
        self.units = {name: dataset.targets[name].unit for name in self.labels}
        self.metric = self.labels[0]
        if len(self.labels) > 1:
            self.metric, self.units[TOGETHER] = TOGETHER, ""
        self.meta = {
            "targets": {name: self.units[name] for name in self.labels},
            "data": training_data(dataset, split["train"]),
        }
        if request.smoothness and model.smoothness() is None:
            raise UsageError("--smoothness needs a learned encoding: add --encoding learned")

    def _standardise(
        self, dataset: Dataset, counts: np.ndarray, values: np.ndarray, train: np.ndarray
    ) -> TargetNormalization:
        species: tuple[int, ...] = self.species
        atoms = {
            name: np.array([table.get(int(z), 0.0) for z in species])
            for name, table in dataset.references.items()
        }
        found = normalization_of(
            values[train],
            counts[train],
            self.names,
            self.request.references,
            self.request.scale,
            atoms,
            self.offsets,
        )
        if self.forces is None or self.request.scale != "auto":
            return found
        rows, _ = ragged(torch.from_numpy(dataset.offsets), torch.from_numpy(np.asarray(train)))
        size = float(np.sqrt(np.square(dataset.targets[FORCES].values[rows.numpy()]).mean()))
        return TargetNormalization(
            found.references, found.shift, np.full_like(found.scale, size or 1.0)
        )

    def loss(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See `task.Task`."""
        chosen = self.splits["train"][indices]
        errors = self._errors(chosen, training=True)
        each = torch.stack([self.penalty(error).mean() for error in errors])  # (T,)
        loss = (each * self.weights).sum() / self.weights.sum()
        parts = dict(zip(self.labels, each.unbind(), strict=True)) if len(self.labels) > 1 else {}
        if self.request.smoothness:
            rough = self.model.smoothness()  # type: ignore[operator]
            loss = loss + self.request.smoothness * rough
            parts["smoothness"] = rough
        return loss, parts

    def _errors(self, chosen: Tensor, training: bool) -> list[Tensor]:
        """Errors of each label in units of its scale: (b,) a target, (a, 3) of the forces."""
        graph, rows = self.arrays.graph(chosen)
        model: Any = self.model
        if self.forces is None:
            return list((model.network(graph) - self.learnt[chosen]).unbind(1))
        values, forces, _ = model.derivatives(graph, create_graph=training)
        scale = model.scale
        energies = (values - self.values[chosen]) / scale
        pulled = (forces - self.forces[rows]) / scale[0].to(forces.dtype)
        return [*energies.to(forces.dtype).unbind(1), pulled]

    def evaluate(
        self, split: str, model: nn.Module, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        """Mean absolute errors by label in their units; see `task.Task`."""
        indices = self.splits[split]
        if not len(indices):
            return {}
        sums = torch.zeros(len(self.labels), dtype=torch.float64, device=indices.device)
        counts = [0] * len(self.labels)
        for chosen in batches(group.shard(indices), self._evaluation_batch()):
            check()
            with torch.set_grad_enabled(self.forces is not None):
                errors = [error.detach().abs() for error in self._errors(chosen, training=False)]
            sums += torch.stack([error.double().sum() for error in errors])
            counts = [n + error.numel() for n, error in zip(counts, errors, strict=True)]
        total, count = group.all_reduce(torch.stack((sums, sums.new_tensor(counts)))).cpu()
        means = total / count
        scales = torch.from_numpy(self.normalization.scale)
        if self.forces is not None:
            scales = scales[:1].expand(len(self.labels))
        found = dict(zip(self.labels, (means * scales).tolist(), strict=True))
        if len(self.labels) > 1:
            weights = self.weights.cpu().double()
            found[TOGETHER] = float((means * weights).sum() / weights.sum())
        return found

    def _evaluation_batch(self) -> int:
        atoms = EVALUATION_ATOMS * (1 if self.values.device.type == "cpu" else 8)
        each = self.arrays.numbers.shape[0] / (self.arrays.offsets.shape[0] - 1)
        kept = 4 if self.forces is not None else 1  # a record of every step, where forces are made
        pairs = self.kinds**2  # twice the points have four times the pairs
        return max(1, int(atoms / each / kept / pairs))


def _store(model: Any, normalization: TargetNormalization) -> None:
    """Puts the standardisation into the model, so that it answers in the targets' units."""
    model.reference.copy_(torch.from_numpy(normalization.references))
    model.shift.copy_(torch.from_numpy(normalization.shift))
    model.scale.copy_(torch.from_numpy(normalization.scale))


def _choice(table: dict[str, Any], name: str, option: str) -> Any:
    if name not in table:
        raise UsageError(f"{option} is one of {', '.join(table)}, not {name!r}")
    return table[name]


def _weights(labels: list[str], request: Request, forces: bool, dtype: torch.dtype) -> Tensor:
    """(T,) the weight of each label; 0.2 and 0.8 of energy and forces, as TorchMD-NET, else 1."""
    for name in request.weights:
        if name not in labels:
            raise UsageError(f"--weight {name}: is not trained here; there are {', '.join(labels)}")
    default = dict.fromkeys(labels, 0.2) | {FORCES: 0.8} if forces else {}
    each = [request.weights.get(name, default.get(name, 1.0)) for name in labels]
    if not any(each):
        raise UsageError("--weight: with weights of zero alone there is nothing to learn")
    return torch.tensor(each, dtype=dtype)


def chosen_targets(dataset: Dataset, request: Request) -> tuple[tuple[str, ...], bool]:
    """The labels of structures to learn, and whether the forces too.

    Raises:
        InputError: a label that is not there, listing those that are.
        UsageError: forces without exactly one energy in the same unit.
    """
    there = dataset.targets
    single = [k for k, t in there.items() if t.per == "structure" and t.values.ndim == 1]
    learnable = [*single, *([FORCES] if FORCES in there else [])]
    wanted = list(dict.fromkeys(request.targets)) or learnable
    for name in wanted:
        if name not in learnable:
            known = ", ".join(learnable) or "none"
            raise InputError(f"no label {name!r} to learn in the data; there are: {known}")
    forces = FORCES in wanted
    names = tuple(name for name in wanted if name != FORCES)
    if not names:
        raise UsageError("forces are learnt as derivatives of an energy: add --target energy")
    if forces and len(names) != 1:
        raise UsageError(f"forces go with one energy, not with {', '.join(names)}: choose --target")
    if forces and there[FORCES].unit != f"{there[names[0]].unit}/Angstrom":
        units = f"{there[names[0]].unit} and {there[FORCES].unit}"
        raise InputError(f"{names[0]} and forces are in {units}, which do not belong together")
    if forces and names[0] not in ENERGIES:
        raise UsageError(
            f"forces are derivatives of {' or '.join(ENERGIES)}, not of {names[0]}: name the label "
            "with neupol data xyz --energy-key"
        )
    return names, forces


def property_task(name: str, dataset: Dataset, request: Request) -> PropertyTask:
    """Builds the model called ``name`` for a dataset and the task of training it.

    Raises:
        InputError, UsageError: where data, model and request do not fit together.
    """
    names, forces = chosen_targets(dataset, request)
    split = chosen_partition(dataset, request)
    config = {
        "species": list(dataset.elements),
        **request.config,
        "targets": list(names),
        "units": [dataset.targets[name].unit for name in names],
    }
    config["species"] = sorted(set(config["species"]))
    strange = set(dataset.elements) - set(config["species"])
    if strange:
        raise InputError(f"the data hold elements {sorted(strange)} that are not in --set species")
    torch.manual_seed(request.seed)
    with default_dtype(request.dtype) as dtype:
        model = registry.build(name, config).to(device_named(request.device), dtype)
    return PropertyTask(model, dataset, names, forces, split, request)
