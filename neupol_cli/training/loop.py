"""One training loop for every kind of model.

What a model learns from is a `Task`; the loop knows nothing else about it. Every random number
derives from (seed, rank, step), so the whole state of a run is its weights, the optimiser's
moments, the averages and a few counters: a run that is killed and resumed, in mid-epoch too, takes
the same steps, bit for bit, as one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields

import torch
from torch import Tensor

from neupol_cli.checkpoint import State
from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import DivergedError, TemporaryError, UsageError, out_of_memory
from neupol_cli.models.base import Model
from neupol_cli.training.ema import EMA, Window
from neupol_cli.training.epoch_sampler import EpochSampler, default_generator, mixed
from neupol_cli.training.optimizers import moments_by_name, optimizer_for, take_moments
from neupol_cli.training.pieces import UNREACHED, Pieces, check_reached
from neupol_cli.training.schedule import Progress, Schedule
from neupol_cli.training.settings import Settings
from neupol_cli.training.task import Task


@dataclass
class Counters:
    """The plain numbers of a run's state."""

    step: int = 0
    evaluated: int = -1  # the step at which the last evaluation was made
    best: float = math.inf
    best_step: int = -1
    stale: int = 0  # evaluations since the best one
    elapsed: float = 0.0  # seconds, over all sittings
    valid: dict[str, float] = field(default_factory=dict)  # the last evaluation
    best_valid: dict[str, float] = field(default_factory=dict)


class Trainer:
    """A task, its weights, and everything that changes from step to step.

    Args:
        task: what to learn.
        settings: how.
        group: this process among those that share every batch out.
    """

    def __init__(self, task: Task, settings: Settings, group: ProcessGroup = ALONE) -> None:
        self.task, self.settings, self.group = task, settings, group
        self.model = task.model
        group.broadcast_model(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.optimizer = optimizer_for(self.model, settings)
        self.schedule = Schedule(settings.schedule, settings.lr, settings.warmup)
        self.ema = EMA(self.parameters, settings.ema) if settings.ema else None
        batch, seed = settings.batch_size, settings.seed
        self.sampler = EpochSampler(task.size, batch, seed, group)
        self.generator = torch.Generator(device=self.device)
        self.common = default_generator(self.device)  # dropout has no other source
        self.window = Window()
        self.now = Counters()
        self.rate = settings.lr  # as the schedule has it
        self.begun = time.monotonic()
        self.agreed = 0.0  # seconds of work, as the first of several ranks has them
        # On an accelerator a step must not wait for its own loss: one flag there gathers trouble.
        self.nonfinite = torch.zeros((), device=self.device)
        self.waits = self.device.type == "cpu"
        if not self.waits:
            self.optimizer.found_inf = self.nonfinite  # type: ignore[attr-defined]
        count = len(self._cut(self.sampler.batch(0)))
        self.pieces = Pieces(task, self.parameters, count) if count > 1 else None

    # Limits.

    def total_steps(self) -> float:
        """The last step's number, or infinity where time is the limit."""
        if self.settings.steps is not None:
            return self.settings.steps
        if self.settings.epochs is not None:
            return max(1, round(self.settings.epochs * self.sampler.per_epoch))
        return math.inf

    def elapsed(self) -> float:
        """Seconds of work on this run, earlier sittings included."""
        return self.now.elapsed + time.monotonic() - self.begun

    def agree(self, signal: int) -> int:
        """Between steps: the ranks take over the first one's time, and any one's signal."""
        seconds = self.elapsed() if self.group.is_main else 0.0
        number, self.agreed = self.group.all_reduce_max([signal, seconds])
        return int(number)

    def progress(self) -> Progress:
        """How far the run is."""
        if self.settings.minutes is not None:
            seconds = self.agreed if self.group.world_size > 1 else self.elapsed()
            return Progress(self.now.step, seconds / (60.0 * self.settings.minutes))
        return Progress(self.now.step, self.now.step / self.total_steps())

    def done(self) -> bool:
        """Whether a limit is reached."""
        return self.stopped() or self.progress().fraction >= 1.0

    def stopped(self) -> bool:
        """Whether patience has run out; a larger one lets a run go on."""
        return 0 < self.settings.patience <= self.now.stale

    def valid_every(self) -> int:
        """Steps between two evaluations."""
        return self.settings.valid_every or max(self.sampler.per_epoch, 500)

    # Work.

    def apart(self) -> AbstractContextManager[None]:
        """While it lasts, pieces of batches go to copies of this process."""
        return nullcontext() if self.pieces is None else self.pieces.apart()

    def step(self) -> None:
        """One step.

        Raises:
            DivergedError: with the weights as they were.
            TemporaryError: out of memory.
        """
        now = self.now
        seed, rank = self.settings.seed, self.group.rank
        self.generator.manual_seed(mixed(seed, rank, now.step, 1))
        self.common.manual_seed(mixed(seed, rank, now.step, 2))
        self.rate = self.schedule.rate(self.progress())
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.rate * parameters["factor"]
        try:
            self._descend(self.sampler.batch(now.step))
        except (RuntimeError, MemoryError) as error:
            self.explain(error)
            raise
        now.step += 1
        if self.ema is not None:
            self.ema.update(now.step)

    def _descend(self, indices: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.pieces is None:
            loss, parts = self._whole(indices)
        else:
            seeds = (self.settings.seed, self.group.rank, self.now.step, 3)
            loss, parts = self.pieces.summed(seeds, indices, self._cut(indices))
        if self.group.world_size > 1:
            share = indices.shape[0] / self.sampler.chunk
            loss, parts = self._shared(share, {"loss": loss, **parts})
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            raise UsageError(UNREACHED)
        norm = torch.nn.utils.get_total_norm(gradients)
        self._watch(loss.detach() + norm)
        if self.settings.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip, norm)
        self.optimizer.step()
        self.window.add({"loss": loss, **parts})

    def _cut(self, indices: Tensor) -> tuple[Tensor, ...]:
        """A batch as pieces for the cores of a CPU; whatever their number, the same ones.

        A power of two, which two, four or eight cores are done with at the same time.
        """
        most = len(indices) // self.task.grain
        if most < 2 or not (self.settings.cut and self.waits):
            return (indices,)
        return indices.tensor_split(1 << (most.bit_length() - 1))

    def _whole(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts; gradients where the optimiser looks for them."""
        loss, parts = self.task.loss(indices, self.generator)
        check_reached(loss)
        loss.backward(inputs=self.parameters)  # positions too have a record: for forces
        return loss, parts

    def _shared(self, share: float, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Makes gradients, loss and parts the means over the items of all ranks, of which this one
        has ``share``: in one sum over one flat tensor, for these networks are small."""
        # What no rank has a gradient for must keep none: a decay would shrink it.
        reached = self.group.all_reduce_max([p.grad is not None for p in self.parameters])
        parameters = [p for p, one in zip(self.parameters, reached, strict=True) if one]
        pieces = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
        scalars = torch.stack([value.detach() for value in parts.values()])
        flat = torch.cat([*(piece.flatten() for piece in pieces), scalars.to(pieces[0])])
        sums = self.group.all_reduce(flat * share).split([*(p.numel() for p in pieces), len(parts)])
        for parameter, values in zip(parameters, sums, strict=False):
            parameter.grad = values.view_as(parameter)
        loss, *others = sums[-1].unbind()
        return loss, dict(zip(list(parts)[1:], others, strict=True))

    def _watch(self, total: Tensor) -> None:
        """Sees a loss or gradient that is not finite before the step is taken."""
        if self.waits:
            if not math.isfinite(total.item()):
                raise self.diverged()
            return
        # The fused optimiser reads this flag on the device and, once it is set, moves nothing.
        self.nonfinite.copy_(
            torch.maximum(self.nonfinite, 1.0 - total.isfinite().to(torch.float32))
        )

    def verify(self) -> None:
        """Raises DivergedError if a step since the last look met a number that is not finite."""
        if not self.waits and self.nonfinite.item():
            raise self.diverged()

    def diverged(self, what: str = "the loss or its gradient") -> DivergedError:
        """What to raise when something is not finite."""
        return DivergedError(
            f"{what} is not finite at step {self.now.step} (learning rate "
            f"{self.rate:.3g}); the last good checkpoint is kept: try a smaller --lr, --clip or "
            "--warmup"
        )

    def explain(self, error: BaseException) -> None:
        """Raises TemporaryError, saying what to change, if the error is that memory ran out."""
        if out_of_memory(error):
            size = self.settings.batch_size
            advice = f"--batch-size {size // 2}" if size > 1 else "a smaller model (--set)"
            raise TemporaryError(f"out of memory with --batch-size {size}; try {advice}") from error

    @contextmanager
    def eval_mode(self) -> Iterator[Model]:
        """The model as it is evaluated and stored: averaged weights, eval mode."""
        self.model.eval()
        try:
            if self.ema is None:
                yield self.model
            else:
                with self.ema.applied():
                    yield self.model
        finally:
            self.model.train()

    def evaluate_split(self, split: str, check: Callable[[], None]) -> dict[str, float]:
        """Errors on a split, of the weights as they are stored.

        Raises:
            TemporaryError: out of memory; also what ``check`` raises.
        """
        with self.eval_mode() as model:
            try:
                return self.task.evaluate(split, model, check, self.group)
            except (RuntimeError, MemoryError) as error:
                self.explain(error)
                raise

    def evaluate(self, check: Callable[[], None]) -> bool:
        """Validates; True if this is the best so far.

        Raises:
            DivergedError: the error is not finite; also what ``check`` raises.
        """
        self.verify()
        errors = self.evaluate_split("valid", check)
        now = self.now
        now.evaluated, now.valid = now.step, errors
        if not errors:
            return False
        metric = errors[self.task.metric]
        if not math.isfinite(metric):
            raise self.diverged(f"the validation error ({self.task.metric})")
        self.schedule.observe(metric)
        better = metric < now.best
        now.stale = 0 if better else now.stale + 1
        if better:
            now.best, now.best_step, now.best_valid = metric, now.step, errors
        return better

    def evaluation_due(self) -> bool:
        """Whether the weights as they are should be validated before another step."""
        now = self.now
        known = now.step > 0 or "start" in self.task.meta  # random weights tell nothing
        regular = known and now.step % self.valid_every() == 0
        return now.evaluated < now.step and (regular or self.done())

    # State.

    def state(self) -> State:
        """Everything that `restore` needs, as nested dictionaries of tensors and numbers."""
        self.verify()
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        average = self.ema.values if self.ema is not None else []
        return {
            "counters": {**asdict(self.now), "elapsed": self.elapsed()},
            "model": dict(self.model.state_dict()),
            "optimizer": moments_by_name(self.model, self.optimizer),
            "average": dict(zip(names, average, strict=False)),
            "schedule": self.schedule.state(),
            "window": {
                "names": self.window.names,
                "sums": self.window.sums,
                "count": self.window.count,
            },
            "size": self.task.size,
        }

    def restore(self, state: State) -> None:
        """Takes up a state that `state` gave, exactly.

        Raises:
            UsageError: it is of other data.
        """
        if state["size"] != self.task.size:
            raise UsageError(
                f"the run was trained on {state['size']} items and there are {self.task.size} now"
            )
        self.model.load_state_dict(state["model"])
        take_moments(self.model, self.optimizer, self.settings, state["optimizer"])
        if self.ema is not None:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            for name, value in zip(names, self.ema.values, strict=True):
                value.copy_(state["average"][name])
        self.schedule.restore(state["schedule"])
        self.window.names = state["window"]["names"]
        self.window.sums = state["window"]["sums"].to(self.device)
        self.window.count = state["window"]["count"]
        counters = state["counters"]
        self.now = Counters(**{field.name: counters[field.name] for field in fields(Counters)})
        self.agreed, self.begun = self.now.elapsed, time.monotonic()
