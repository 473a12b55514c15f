"""How to train: what `neupol fit` is told about limit, optimiser and bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How to train. One of ``epochs``, ``steps`` and ``minutes`` is the limit."""

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 96
    lr: float = 1e-3
    layer_lr: Mapping[str, float] = field(default_factory=dict)  # part -> times lr; see parts.py
    optimizer: str = "adam"
    weight_decay: float = 0.0
    decays: str = "all"  # which weights the decay shrinks
    schedule: str = "cosine"
    warmup: int = 0
    ema: float = 0.0  # decay of the weights' running average; 0: none
    clip: float = 0.0  # largest norm of the gradient; 0: no limit
    patience: int = 0  # evaluations without improvement before the run stops; 0: never
    seed: int = 0
    valid_every: int = 0  # steps; 0: once an epoch, but not more often than every 500 steps
    save_steps: int = 0  # 0: by seconds only
    save_seconds: float = 60.0
    log_every: int = 50
    cut: bool = True  # whether a batch goes to a CPU's cores in pieces (pieces.py)
