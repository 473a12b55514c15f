"""Learning where charged particles will be: mean squared error over all coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.base import DynamicsModel, Model
from neupol_cli.models.workers import in_order
from neupol_cli.training.arrays import sent
from neupol_cli.training.building import built
from neupol_cli.training.epoch_sampler import batches
from neupol_cli.training.request import Request, chosen_partition

INPUTS = ("velocities", "charges")
ANSWER = "positions_later"
METRIC = "mse"
LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": nn.functional.l1_loss,
    "l2": nn.functional.mse_loss,
}
PIECE = 200  # systems of a batch that a core of a CPU differentiates
EVALUATION_BATCH = 500  # systems; more only leave a core's cache


class NBodyTask:
    """All systems lie on the device; a batch is one index. See `task.Task`."""

    def __init__(
        self, model: DynamicsModel, dataset: Dataset, split: dict[str, np.ndarray], request: Request
    ) -> None:
        self.model = model
        like = next(model.parameters())
        every = [dataset.positions, *(dataset.targets[k].values for k in (*INPUTS, ANSWER))]
        # (N, n, 3) positions, velocities and later positions; (N, n) charges
        self.positions, self.velocities, self.charges, self.later = (
            torch.from_numpy(values).to(like).unflatten(0, (dataset.size, -1)) for values in every
        )
        self.splits = {k: torch.from_numpy(np.asarray(v)) for k, v in split.items()}  # on the host
        self.size = len(split["train"])
        self.grain = PIECE
        self.criterion = _criterion(request.loss)
        self.metric, self.units = METRIC, {METRIC: ""}
        self.meta: dict[str, object] = {
            "targets": {ANSWER: dataset.targets[ANSWER].unit},
            "data": {"source": dataset.source, "fingerprint": dataset.fingerprint},
        }

    def predicted(self, model: nn.Module, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, 3) later positions of the systems ``chosen`` (b,): predicted, and the data's."""
        some = sent(chosen, self.later.device)
        given = self.positions[some], self.velocities[some], self.charges[some]
        return model(*given), self.later[some]

    def domain(self, check: Callable[[], None]) -> None:
        """See `task.Task`: particles are no atoms."""

    def calibrate(self, model: Model, check: Callable[[], None]) -> dict[str, Tensor]:
        """See `task.Task`."""
        return {}

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `task.Task`."""
        chosen = self.splits["train"][indices]
        loss = self.criterion(*self.predicted(self.model, chosen))
        return (loss if whole is None else loss * (len(indices) / len(whole))), {}

    @torch.no_grad()
    def evaluate(
        self, split: str, model: Model, check: Callable[[], None], group: ProcessGroup = ALONE
    ) -> dict[str, float]:
        """Mean squared error over all coordinates; see `task.Task`."""
        indices = self.splits[split]
        if not len(indices):
            return {}
        total = torch.zeros((), dtype=torch.float64, device=self.later.device)

        def squared(chosen: Tensor) -> Tensor:
            predicted, later = self.predicted(model, chosen)
            return (predicted - later).double().square().sum()

        parts = batches(group.shard(indices), EVALUATION_BATCH)
        for part in in_order(squared, parts, apart=True):
            check()
            total += part
        group.all_reduce(total)
        return {METRIC: float(total) / (len(indices) * self.later[0].numel())}


def _criterion(name: str) -> Callable[..., Tensor]:
    if name not in LOSSES:
        raise UsageError(f"--loss is one of {', '.join(LOSSES)}, not {name!r}")
    return LOSSES[name]


def nbody_task(name: str, dataset: Dataset, request: Request) -> NBodyTask:
    """Builds the model called ``name`` for a dataset and the task of training it.

    Raises:
        InputError, UsageError: where data, model and request do not fit together.
    """
    missing = [key for key in (*INPUTS, ANSWER) if key not in dataset.targets]
    if missing:
        raise InputError(f"the data have no {missing[0]}; make them with `neupol data nbody`")
    if dataset.counts.min() != dataset.counts.max() or dataset.counts[0] < 2:
        raise InputError("all systems must have the same number of particles, two at least")
    split = chosen_partition(dataset, request)
    model = built(name, request.config, request)
    assert isinstance(model, DynamicsModel)  # as the registry says of this task
    return NBodyTask(model, dataset, split, request)
