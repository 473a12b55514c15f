"""Learning electron densities: random probes of random structures, all of it on the device.

A batch is slicing: atoms and densities lie in flat arrays where the model is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.domain.of_dataset import facts_of_dataset
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.base import FactsRecord, Model
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.distance import smoothness
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.workers import in_order
from neupol_cli.training import calibrating, spherical_atoms
from neupol_cli.training.arrays import Arrays, sent
from neupol_cli.training.building import built
from neupol_cli.training.density_points import Draw, Grids
from neupol_cli.training.property_task import PENALTIES
from neupol_cli.training.request import (
    Request,
    chosen_partition,
    chosen_species,
    training_data,
)

PIECE_PROBES = 500  # of a piece of a batch that a core of a CPU differentiates
METRIC, SPIN_METRIC = "eps_mae_percent", "eps_mae_spin_percent"
UNIT = "e/Angstrom^3"
# Values that are held at once: 4 GB in float32. Larger data are thinned.
HELD = 1_000_000_000
# Points of a structure that are read for validation, the same ones each time; a test reads all.
VALIDATED = 4096


class DensityTask:
    """Densities at random probes of each structure; see `task.Task`.

    Loss: mean |rho - rho^|, or its square, over the probes (of both columns, with spin). Error:
    eps_mae = sum |rho - rho^| / sum |rho| in percent, of the total density: over the whole grids of
    the test set, over up to 4,096 fixed points a structure for validation. With spin the same of
    up - down, too (closed shells add to its errors alone); the best weights are the total's.
    """

    metric = METRIC

    def __init__(
        self, model: DensityModel, dataset: Dataset, split: dict[str, np.ndarray], request: Request
    ) -> None:
        assert dataset.density is not None
        self.model, self.dataset = model, dataset
        self.config = model.config
        like = next(model.parameters()).detach()
        self.arrays = Arrays.of(dataset, like.device, like.dtype)
        self.density = dataset.density
        self.columns = 1 + self.config.spin
        self.splits = {k: np.asarray(v) for k, v in split.items()}
        self.train = torch.from_numpy(self.splits["train"])  # on the host
        self.size = len(self.train)
        self.grain = math.ceil(PIECE_PROBES / self.config.probes)
        most = max(1, HELD // max(1, self.size) // self.columns)
        self.grids = Grids.of(self.density, self.splits["train"], most, request.seed, like)
        self.draw = Draw(self.grids, self.config.sampling_exponent)
        self.checked: Grids | None = None
        self.smoothness = request.smoothness
        self.units = {METRIC: "%", SPIN_METRIC: "%"}
        valence = dataset.references.get("electrons", {})
        self.meta: dict[str, object] = {
            "targets": {"density": UNIT},
            "data": training_data(dataset, split["train"]),
            # What an atom of each element brings to the sum, for those who normalise it.
            "valence": {chemical_symbols[number]: count for number, count in valence.items()},
        }
        if request.loss not in PENALTIES:
            raise UsageError(f"--loss is one of {', '.join(PENALTIES)}, not {request.loss!r}")
        self.penalty = PENALTIES[request.loss]
        if request.smoothness and smoothness(model) is None:
            raise UsageError("--smoothness needs a learned encoding: add --encoding learned")
        if model.promolecule is not None and request.start is None:
            spherical_atoms.fit(model, self.arrays, self.grids, self.train, valence, request.seed)

    def domain(self, check: Callable[[], None]) -> FactsRecord:
        """See `task.Task`."""
        return facts_of_dataset(self.dataset, self.splits, check).record()

    def calibrate(self, model: Model, check: Callable[[], None]) -> dict[str, Tensor]:
        """See `task.Task`."""
        density = cast(DensityModel, model)
        unseen = calibrating.chosen(self.splits["valid"])
        if len(unseen) < calibrating.FEWEST:
            return {}
        with torch.no_grad():
            sums = torch.stack(list(self._valid_sums(unseen, density, check)))
        errors = 100 * sums[:, :1] / sums[:, 1:2]
        known = calibrating.chosen(self.splits["train"])
        return calibrating.of_densities(density, self.dataset, known, unseen, errors, check)

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `task.Task`."""
        share = 1.0 if whole is None else len(indices) / len(whole)
        chosen = self.train[indices]
        graph, _ = self.arrays.graph(chosen)
        chosen = sent(chosen, self.grids.values.device)
        rows, weights = self.draw(chosen, self.config.probes, generator)
        errors = self.penalty(self._errors(self.model, self.grids, chosen, rows, graph))
        if weights is not None:
            weights = weights.reshape(-1, 1).to(errors.dtype)
            errors = errors.reshape(weights.shape[0], -1) * weights
        loss = errors.mean() * share
        if not self.smoothness:
            return loss, {}
        rough = smoothness(self.model)
        assert rough is not None
        rough = rough * share
        return loss + self.smoothness * rough, {"smoothness": rough}

    def _errors(
        self, model: nn.Module, grids: Grids, chosen: Tensor, rows: Tensor, graph: Graph
    ) -> Tensor:
        """(B P,) or (B P, 2): what the model says less what is there."""
        predicted: Tensor = model(graph, grids.points(chosen, rows))
        return predicted - self._truth(grids, rows)

    def _truth(self, grids: Grids, rows: Tensor) -> Tensor:
        """(B, P) rows -> (B P,) or (B P, 2), as many columns as the model has."""
        values = grids.values[rows.reshape(-1)]
        return values[:, 0] if values.dim() == 2 and self.columns == 1 else values

    def evaluate(
        self, split: str, model: Model, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        """eps_mae in percent, and of the spin where any is there; see `task.Task`."""
        if not len(self.splits[split]):
            return {}
        measured = self._tested if split == "test" else self._valid
        with torch.no_grad():
            indices = group.shard(self.splits[split])
            sums = group.all_reduce(measured(indices, cast(DensityModel, model), check))
        found = {METRIC: 100 * float(sums[0] / sums[1])}
        return found | ({SPIN_METRIC: 100 * float(sums[2] / sums[3])} if sums[3] > 0 else {})

    def _valid(self, indices: np.ndarray, model: DensityModel, check: Callable[[], None]) -> Tensor:
        """`_sums` over the fixed points of some of the validation set."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.grids.values.device)
        for one in self._valid_sums(indices, model, check):
            sums += one
        return sums

    def _valid_sums(
        self, indices: np.ndarray, model: DensityModel, check: Callable[[], None]
    ) -> Iterator[Tensor]:
        """The same of each structure by itself."""
        if self.checked is None:
            self.checked = Grids.of(
                self.density, self.splits["valid"], VALIDATED, 0, self.grids.step
            )
        grids, device = self.checked, self.grids.values.device

        def of_one(index: int) -> Tensor:
            chosen = torch.tensor([index])
            graph, _ = self.arrays.graph(chosen)
            chosen = sent(chosen, device)
            rows = torch.arange(
                int(grids.offsets[index]), int(grids.offsets[index + 1]), device=device
            )[None]
            errors = self._errors(model, grids, chosen, rows, graph)
            return _sums(errors, self._truth(grids, rows))

        for sums in in_order(of_one, indices.tolist(), apart=True):
            check()
            yield sums

    def _tested(
        self, indices: np.ndarray, model: DensityModel, check: Callable[[], None]
    ) -> Tensor:
        """The same over whole grids, one structure in memory at a time."""
        like = self.grids.step
        sums = torch.zeros(4, dtype=torch.float64, device=like.device)
        for index in indices:
            check()
            graph, _ = self.arrays.graph(torch.tensor([int(index)]))
            values = torch.from_numpy(self.density.values(int(index))).to(like)
            values = values[:, 0] if values.dim() == 2 and self.columns == 1 else values
            density = self.density
            shape = tuple(density.shape[index].tolist())
            grid = Box(density.origin[index], density.step[index], shape)
            predicted = model.density_grid(model.prepared(graph), grid)
            sums += _sums(predicted - values, values)
        return sums


@dataclass(frozen=True)
class Box:
    """One structure's grid: origin (3,), step (3, 3), shape (3,)."""

    origin: np.ndarray
    step: np.ndarray
    shape: tuple[int, ...]


def _sums(errors: Tensor, truth: Tensor) -> Tensor:
    """(4,) sum |error| and sum |rho| of the total density, then both of the spin, or zeros."""
    pairs = torch.stack((errors, truth)).abs().reshape(2, len(errors), -1).sum(1)  # (2, columns)
    return nn.functional.pad(pairs.T.reshape(-1), (0, 4 - pairs.numel())).double()


def density_task(name: str, dataset: Dataset, request: Request) -> DensityTask:
    """Builds the density model called ``name`` for a dataset and the task of training it.

    Raises:
        InputError, UsageError: where data, model and request do not fit together.
    """
    if dataset.density is None:
        raise InputError("the file holds no densities; make one with neupol data density")
    if request.targets:
        raise UsageError("--target is for properties; a density model learns the density")
    species = chosen_species(dataset, request)
    config = {"spin": dataset.density.spin, **request.config, "species": species}
    if config["spin"] and not dataset.density.spin:
        raise InputError("the file has no spin density to learn: --set spin=false")
    split = chosen_partition(dataset, request)
    model = built(name, config, request)
    assert isinstance(model, DensityModel)
    return DensityTask(model, dataset, split, request)
