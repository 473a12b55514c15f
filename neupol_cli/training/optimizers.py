"""The optimisers there are, and which weights a decay shrinks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from neupol_cli.errors import UsageError
from neupol_cli.training.settings import Settings

OPTIMIZERS: dict[str, Callable[..., torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "amsgrad": partial(torch.optim.Adam, amsgrad=True),
}


def _everything(model: nn.Module) -> set[nn.Parameter]:
    return set()


def _not_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Biases, and all that belongs to norms, embeddings and encodings of distances.

    Modules of our own say so with ``decays = False``. Dimensions do not tell: the weights of a
    tensor product are a vector, and decay (Liao and Smidt 2023 as published).
    """
    spared = {p for name, p in model.named_parameters() if name.endswith("bias")}
    for module in model.modules():
        foreign = isinstance(module, nn.LayerNorm | nn.Embedding)
        if foreign or not getattr(module, "decays", True):
            spared.update(module.parameters())
    return spared


# --decays -> the weights that it spares.
SPARED: dict[str, Callable[[nn.Module], set[nn.Parameter]]] = {
    "all": _everything,
    "matrices": _not_matrices,
}


def optimizer_for(model: nn.Module, settings: Settings) -> torch.optim.Adam:
    """Adam in one of its kinds, over all weights that learn.

    Raises:
        UsageError: another name.
    """
    for table, name, option in (
        (OPTIMIZERS, settings.optimizer, "optimizer"),
        (SPARED, settings.decays, "decays"),
    ):
        if name not in table:
            raise UsageError(f"--{option} is one of {', '.join(table)}, not {name!r}")
    kind, decay = OPTIMIZERS[settings.optimizer], settings.weight_decay
    learnt = [p for p in model.parameters() if p.requires_grad]
    if not decay or settings.decays == "all":
        return kind(learnt, lr=settings.lr, weight_decay=decay, fused=True)
    spared = SPARED[settings.decays](model)
    groups = [
        {"params": [p for p in learnt if p not in spared], "weight_decay": decay},
        {"params": [p for p in learnt if p in spared], "weight_decay": 0.0},
    ]
    return kind([group for group in groups if group["params"]], lr=settings.lr, fused=True)
