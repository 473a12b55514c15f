"""Learning electron densities: random probes of random structures, all of it on the device.

A batch is slicing: atoms and densities lie in flat arrays where the model is. Densities too large
for memory are thinned to random points of each grid, drawn once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.devices import default_dtype, device_named
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.domain.of_dataset import facts_of_dataset
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.hdf5 import Dataset, Density
from neupol_cli.models.base import FactsRecord, Model
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.density.padded_edges import padded_edges
from neupol_cli.models.distance import smoothness
from neupol_cli.models.nn.graph import Graph
from neupol_cli.training.property_task import PENALTIES, Arrays
from neupol_cli.training.request import (
    Request,
    chosen_partition,
    chosen_species,
    training_data,
)

METRIC = "eps_mae_percent"
UNIT = "e/Angstrom^3"
# Values that are held at once: 4 GB in float32. Larger data are thinned.
HELD = 1_000_000_000
# Points of a structure that are read for validation, the same ones each time; a test reads all.
VALIDATED = 4096
# A weighted draw goes with (density + FLOOR)^exponent, so that no point is out of reach.
FLOOR = 1e-3
# Points and structures that the spherical atoms are fitted to.
FITTED = 2000, 256


@dataclass(frozen=True)
class Grids:
    """Densities of N structures on a device, flat.

    Attributes:
        offsets: (N + 1,) the held points of structure i are rows offsets[i]:offsets[i + 1].
        values: (R,) or (R, 2) e/Angstrom^3.
        places: (R,) the index of each held point in its grid, or None if all are held.
        shape: (N, 3); origin: (N, 3) and step: (N, 3, 3), Angstrom.
    """

    offsets: Tensor
    values: Tensor
    places: Tensor | None
    shape: Tensor
    origin: Tensor
    step: Tensor

    @classmethod
    def of(cls, density: Density, indices: np.ndarray, most: int, seed: int, like: Tensor) -> Grids:
        """The grids of some structures, each thinned to ``most`` random points at the most.

        Rows of structures that are not among ``indices`` are empty.
        """
        full = density.shape.prod(1)
        chosen = np.zeros(len(full), bool)
        chosen[indices] = True
        sizes = np.where(chosen, np.minimum(full, most), 0)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        flat, where = _held(density, offsets, seed, bool((sizes < full)[chosen].any()))

        def real(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(like)

        device = like.device
        return cls(
            torch.from_numpy(offsets).to(device),
            real(flat),
            None if where is None else torch.from_numpy(where).to(device),
            torch.from_numpy(density.shape).to(device),
            real(density.origin),
            real(density.step),
        )

    def points(self, structures: Tensor, rows: Tensor) -> Tensor:
        """Where held points lie: (B,) structures, (B, P) rows -> (B, P, 3) Angstrom."""
        first = self.offsets[structures][:, None]
        place = rows - first if self.places is None else self.places[rows]
        _, n2, n3 = self.shape[structures].unbind(1)
        counts = torch.stack(
            (place // (n2 * n3)[:, None], place // n3[:, None] % n2[:, None], place % n3[:, None]),
            2,
        )
        steps = torch.bmm(counts.to(self.step.dtype), self.step[structures])
        return self.origin[structures][:, None] + steps


def _held(
    density: Density, offsets: np.ndarray, seed: int, thinned: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (R,) or (R, 2) float32 of the rows that ``offsets`` keep, and (R,) which they are.

    All of them are in memory once, beside one structure's; where nothing is ``thinned`` there are
    no indices, which would take twice the room of the values.
    """
    rng, rows = np.random.default_rng(seed), int(offsets[-1])
    values = np.empty((rows, 2) if density.spin else rows, np.float32)
    places = np.empty(rows, np.int64) if thinned else None
    for index in np.flatnonzero(np.diff(offsets)):
        here = slice(int(offsets[index]), int(offsets[index + 1]))
        every, size = density.values(int(index)), here.stop - here.start
        chosen: np.ndarray | slice = slice(None)
        if size < len(every):
            chosen = np.sort(rng.choice(len(every), size, replace=False))
        values[here] = every[chosen]
        if places is not None:
            places[here] = np.arange(len(every))[chosen]
    return values, places


class Draw:
    """Random held points of structures, with the weights that keep their mean unbiased.

    Points are drawn in proportion to (density + 0.001)^exponent: a uniform draw spends half of the
    probes where there is next to nothing to learn.
    """

    def __init__(self, grids: Grids, exponent: float) -> None:
        self.grids = grids
        self.sums: Tensor | None = None
        if exponent:
            total = grids.values if grids.values.dim() == 1 else grids.values[:, 0]
            weights = (total.clamp(min=0).double() + FLOOR) ** exponent
            self.sums = torch.cat((weights.new_zeros(1), weights.cumsum(0)))

    def __call__(
        self, structures: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """(B,) structures -> (B, count) rows, and (B, count) weights of mean one, or None."""
        first, last = self.grids.offsets[structures], self.grids.offsets[structures + 1]
        size = (structures.shape[0], count)
        device = structures.device
        chance = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
        if self.sums is None:
            rows = first[:, None] + (chance * (last - first)[:, None]).long()
            return torch.minimum(rows, last[:, None] - 1), None
        low, high = self.sums[first][:, None], self.sums[last][:, None]
        rows = torch.searchsorted(self.sums, low + chance * (high - low), right=True) - 1
        rows = torch.minimum(torch.maximum(rows, first[:, None]), last[:, None] - 1)
        share = self.sums[rows + 1] - self.sums[rows]
        return rows, (high - low) / (last - first)[:, None] / share


class DensityTask:
    """Densities at random probes of each structure; see `task.Task`.

    Loss: mean |rho - rho^|, or its square, over the probes (of both columns, with spin). Error:
    eps_mae = sum |rho - rho^| / sum |rho| in percent, of the total density: over the whole grids of
    the test set, over up to 4,096 fixed points a structure for validation.
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
        self.train = torch.from_numpy(self.splits["train"]).to(like.device)
        self.size = len(self.train)
        most = max(1, HELD // max(1, self.size) // self.columns)
        self.grids = Grids.of(self.density, self.splits["train"], most, request.seed, like)
        self.draw = Draw(self.grids, self.config.sampling_exponent)
        self.checked: Grids | None = None
        self.smoothness = request.smoothness
        self.units = {METRIC: "%"}
        self.meta: dict[str, object] = {
            "targets": {"density": UNIT},
            "data": training_data(dataset, split["train"]),
            # What an atom of each element brings to the sum, for those who normalise it.
            "valence": {
                chemical_symbols[number]: count
                for number, count in dataset.references.get("electrons", {}).items()
            },
        }
        if request.loss not in PENALTIES:
            raise UsageError(f"--loss is one of {', '.join(PENALTIES)}, not {request.loss!r}")
        self.penalty = PENALTIES[request.loss]
        if request.smoothness and smoothness(model) is None:
            raise UsageError("--smoothness needs a learned encoding: add --encoding learned")
        if model.promolecule is not None:
            fit_promolecule(self, request.seed)

    def domain(self, check: Callable[[], None]) -> FactsRecord:
        """See `task.Task`."""
        return facts_of_dataset(self.dataset, self.splits, check).record()

    def calibrate(self, model: Model, check: Callable[[], None]) -> dict[str, Tensor]:
        """See `task.Task`."""
        return {}

    def loss(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See `task.Task`."""
        chosen = self.train[indices]
        rows, weights = self.draw(chosen, self.config.probes, generator)
        graph, _ = self.arrays.graph(chosen)
        errors = self.penalty(self._errors(self.model, self.grids, chosen, rows, graph))
        if weights is not None:
            weights = weights.reshape(-1, 1).to(errors.dtype)
            errors = errors.reshape(weights.shape[0], -1) * weights
        loss = errors.mean()
        if not self.smoothness:
            return loss, {}
        rough = smoothness(self.model)
        assert rough is not None
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
        """eps_mae in percent; see `task.Task`."""
        if not len(self.splits[split]):
            return {}
        measured = self._tested if split == "test" else self._valid
        with torch.no_grad():
            indices = group.shard(self.splits[split])
            sums = group.all_reduce(measured(indices, cast(DensityModel, model), check))
        return {METRIC: 100 * float(sums[0] / sums[1])}

    def _valid(self, indices: np.ndarray, model: DensityModel, check: Callable[[], None]) -> Tensor:
        """sum |rho - rho^| and sum |rho| over the fixed points of some of the validation set."""
        if self.checked is None:
            self.checked = Grids.of(
                self.density, self.splits["valid"], VALIDATED, 0, self.grids.step
            )
        grids = self.checked
        sums = torch.zeros(2, dtype=torch.float64, device=grids.values.device)
        for index in indices:
            check()
            chosen = torch.tensor([int(index)], device=sums.device)
            rows = torch.arange(
                int(grids.offsets[index]), int(grids.offsets[index + 1]), device=sums.device
            )[None]
            graph, _ = self.arrays.graph(chosen)
            errors = self._errors(model, grids, chosen, rows, graph)
            sums += _sums(errors, self._truth(grids, rows))
        return sums

    def _tested(
        self, indices: np.ndarray, model: DensityModel, check: Callable[[], None]
    ) -> Tensor:
        """The same over whole grids, one structure in memory at a time."""
        like = self.grids.step
        sums = torch.zeros(2, dtype=torch.float64, device=like.device)
        for index in indices:
            check()
            chosen = torch.tensor([int(index)], device=like.device)
            graph, _ = self.arrays.graph(chosen)
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
    """(2,) sum |error| and sum |rho| of the total density."""
    if errors.dim() == 2:
        errors, truth = errors[:, 0], truth[:, 0]
    return torch.stack((errors.abs().sum(), truth.abs().sum())).double()


@torch.no_grad()
def fit_promolecule(task: DensityTask, seed: int) -> None:
    """Fits the spherical atoms of a task's model to random points of its training set."""
    model, count = task.model, FITTED[0]
    generator = torch.Generator(device=task.train.device).manual_seed(seed)
    order = torch.randperm(task.size, generator=generator, device=task.train.device)
    design, density = [], []
    for chosen in task.train[order[: FITTED[1]]].split(16):
        rows, _ = Draw(task.grids, 0.0)(chosen, count, generator)
        graph, _ = task.arrays.graph(chosen)
        design.append(_shells(model, graph, task.grids.points(chosen, rows)))
        truth = task.grids.values[rows.reshape(-1)]
        density.append(truth[:, 0] if truth.dim() == 2 else truth)
    assert model.promolecule is not None
    model.promolecule.fit(torch.cat(design), torch.cat(density))


def _shells(model: DensityModel, graph: Graph, probes: Tensor) -> Tensor:
    """(B P, species x Gaussians): the shells summed over each structure's atoms of an element."""
    assert model.promolecule is not None
    cutoff, species = model.config.cutoff, len(model.config.species)
    images = periodic_images(graph, cutoff, *fractional_bounds(graph, probes))
    edges = padded_edges(graph, images, graph.positions, probes, cutoff)
    shells = model.promolecule.shells(edges.vectors.square().sum(1)) * edges.is_edge[:, None]
    types = model.types(graph.numbers).repeat_interleave(edges.width)
    total = shells.new_zeros(probes.shape[0] * probes.shape[1] * species, shells.shape[1])
    total.index_add_(0, edges.receivers * species + types, shells)
    return total.view(-1, species * shells.shape[1])


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
        raise InputError("--set spin=true, and the file has no spin density")
    split = chosen_partition(dataset, request)
    torch.manual_seed(request.seed)
    with default_dtype(request.dtype) as dtype:
        model = registry.build(name, config).to(device_named(request.device), dtype)
    assert isinstance(model, DensityModel)
    return DensityTask(model, dataset, split, request)
