"""The optimisers there are, and which weights a decay shrinks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from neupol_cli.errors import UsageError
from neupol_cli.training.parts import rate_factors
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

    Returns:
        The optimiser; a group's ``factor`` is what its learning rate is multiplied by.

    Raises:
        UsageError: another name, or a part that the model does not have.
    """
    for table, name, option in (
        (OPTIMIZERS, settings.optimizer, "optimizer"),
        (SPARED, settings.decays, "decays"),
    ):
        if name not in table:
            raise UsageError(f"--{option} is one of {', '.join(table)}, not {name!r}")
    decay = settings.weight_decay
    spared = SPARED[settings.decays](model) if decay else set()
    factors = rate_factors(model, settings.layer_lr)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = factors.get(parameter, 1.0), parameter in spared
            groups.setdefault(key, []).append(parameter)
    # In an order of their own: states of runs know parameters by their places in it.
    ordered = sorted(groups, key=lambda key: (key[0] != 1.0, *key))
    return OPTIMIZERS[settings.optimizer](
        [
            {"params": groups[key], "factor": key[0], "weight_decay": 0.0 if key[1] else decay}
            for key in ordered
        ],
        lr=settings.lr,
        fused=True,
    )
