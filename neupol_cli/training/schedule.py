"""How the learning rate falls: a function of progress, so that a resumed run needs no memory of it.

Only ``plateau`` remembers anything (how often it has already fallen), and says so in `state`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from neupol_cli.errors import UsageError


class ScheduleState(TypedDict):
    """What a schedule remembers: falls so far, validations since the best one, and that one."""

    falls: int
    waiting: int
    best: float


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, and the part (0 to 1) of its limit that is used up."""

    step: int
    fraction: float


def _constant(progress: Progress, number: float) -> float:
    return 1.0


def _cosine(progress: Progress, number: float) -> float:
    return number + (1.0 - number) * 0.5 * (1.0 + math.cos(math.pi * min(progress.fraction, 1.0)))


def _waves(progress: Progress, number: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * number * min(progress.fraction, 1.0)))


def _exponential(progress: Progress, number: float) -> float:
    return math.pow(0.96, progress.step / number)


@dataclass(frozen=True)
class Shape:
    """A schedule: its factor on the learning rate, and its one number with a default."""

    factor: Callable[[Progress, float], float]
    number: float
    meaning: str


SHAPES: dict[str, Shape] = {
    "constant": Shape(_constant, 0.0, "no number"),
    "cosine": Shape(_cosine, 0.0, "the last learning rate as a part of the first"),
    "waves": Shape(_waves, 3.0, "half waves of a cosine, down, up, down"),  # EGNN's, as coded
    "exponential": Shape(_exponential, 1e4, "beta of 0.96^(step/beta)"),
    "plateau": Shape(_constant, 15.0, "evaluations without improvement before a fall"),
}
PLATEAU_FACTOR = 0.8  # TorchMD-NET's
PLATEAU_LEAST = 1e-7  # no fall leads below it, there too


@dataclass
class Schedule:
    """The learning rate of a run.

    Args:
        name: ``constant``, ``cosine``, ``waves``, ``exponential`` or ``plateau``, with its number
            behind a colon where the default does not suit (``exponential:3000``); a plateau's may
            be followed by the factor of a fall (``plateau:15,0.5``).
        lr: the first (and highest) learning rate.
        warmup: steps over which it rises to ``lr`` in a straight line.

    Raises:
        UsageError: a name that does not exist or a number that is none.
    """

    name: str
    lr: float
    warmup: int = 0
    falls: int = field(default=0, init=False)
    waiting: int = field(default=0, init=False)
    best: float = field(default=math.inf, init=False)

    def __post_init__(self) -> None:
        kind, _, text = self.name.partition(":")
        if kind not in SHAPES:
            raise UsageError(f"no schedule is called {kind!r}; there are {', '.join(SHAPES)}")
        self.kind, self.fall = kind, PLATEAU_FACTOR
        first, comma, second = text.partition(",") if kind == "plateau" else (text, "", "")
        try:
            self.number = float(first) if first else SHAPES[kind].number
            self.fall = float(second) if comma else PLATEAU_FACTOR
        except ValueError as error:
            meaning = SHAPES[kind].meaning
            raise UsageError(
                f"--schedule {self.name}: {text!r} is no number ({meaning})"
            ) from error
        if kind == "constant" and text:
            raise UsageError(
                f"--schedule {self.name}: constant takes no number; leave {text!r} out"
            )
        if not math.isfinite(self.number):
            raise UsageError(f"--schedule {self.name}: {text!r} is not finite")
        if kind == "exponential" and self.number <= 0:
            raise UsageError(f"--schedule {self.name}: beta must be positive")
        if not 0 < self.fall < 1:
            raise UsageError(f"--schedule {self.name}: the factor of a fall is between 0 and 1")

    def rate(self, progress: Progress) -> float:
        """The learning rate of the step that comes next."""
        rise = min(1.0, (progress.step + 1) / self.warmup) if self.warmup else 1.0
        shape = SHAPES[self.kind].factor(progress, self.number)
        fallen = max(self.fall**self.falls, min(1.0, PLATEAU_LEAST / self.lr)) if self.falls else 1
        return self.lr * rise * shape * fallen

    def observe(self, metric: float) -> None:
        """Tells ``plateau`` a validation metric; the others do not listen."""
        if metric < self.best:
            self.best, self.waiting = metric, 0
            return
        self.waiting += 1
        if self.kind == "plateau" and self.waiting > self.number:
            self.falls, self.waiting = self.falls + 1, 0

    def state(self) -> ScheduleState:
        """What `restore` needs."""
        return {"falls": self.falls, "waiting": self.waiting, "best": self.best}

    def restore(self, state: ScheduleState) -> None:
        """Takes up a state that `state` gave."""
        self.falls, self.waiting, self.best = state["falls"], state["waiting"], state["best"]
