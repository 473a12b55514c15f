"""The optimisers there are, and which weights a decay shrinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from neupol_cli.errors import UsageError
from neupol_cli.training.muon import OTHERS, Muon, is_matrix
from neupol_cli.training.parts import rate_factors
from neupol_cli.training.settings import Settings

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "muon": Muon,
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


def optimizer_for(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam in one of its kinds, or Muon, over all weights that learn.

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
    spared = SPARED[settings.decays](model)
    factors = rate_factors(model, settings.layer_lr)
    muon = settings.optimizer == "muon"
    matrices = {p for p in model.parameters() if is_matrix(p)} - _not_matrices(model)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = muon and parameter in matrices
            factor = factors.get(parameter, 1.0) * (OTHERS if muon and not matrix else 1.0)
            groups.setdefault((factor, parameter in spared, matrix), []).append(parameter)
    return OPTIMIZERS[settings.optimizer](
        [
            {
                "params": group,
                "factor": factor,
                "weight_decay": 0.0 if free else decay,
                "matrices": matrix,
            }
            for (factor, free, matrix), group in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=settings.lr,
        fused=True,
    )


def moments_by_name(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """What the optimiser keeps of each parameter, by the parameter's name."""
    return {name: optimizer.state[p] for name, p in model.named_parameters() if optimizer.state[p]}


def take_moments(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    moments: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Gives an optimiser what another one kept.

    Args:
        model: whose parameters these are.
        optimizer: of the model.
        settings: of the run.
        moments: by name; by number in states of version 0.1.

    Raises:
        LookupError: a parameter that the model does not have.
        ValueError: moments of another shape.
    """
    parameters = dict(model.named_parameters())
    if moments and all(name.isdecimal() for name in moments):
        numbered = _numbered(model, settings)
        moments = {numbered[int(number)]: kept for number, kept in moments.items()}
    places = {p: k for k, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    for name, kept in moments.items():
        for value in kept.values():
            if value.dim() and value.shape != parameters[name].shape:
                raise ValueError(f"moments of {name} have shape {tuple(value.shape)}")
    state = {places[parameters[name]]: dict(kept) for name, kept in moments.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _numbered(model: nn.Module, settings: Settings) -> list[str]:
    """The names of what learns as version 0.1 counted them: what a decay spares came last."""
    learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = SPARED[settings.decays](model) if settings.weight_decay else set()
    return [name for free in (False, True) for name, p in learnt if (p in spared) == free]
