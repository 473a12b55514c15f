"""Muon: steps along matrices whose singular values are all about the same (Jordan et al. 2024).

The matrices of linear maps take these steps (torch.optim.Muon), scaled to be as long as Adam's
(Liu et al. 2025, arXiv 2502.16982); all else takes AdamW's, of a tenth of the rate, since Muon
learns best at rates that are too high for these.
"""

from __future__ import annotations

from typing import TypedDict, cast

import torch
from torch import Tensor, nn

OTHERS = 0.1  # the rate of what is no matrix
HIGHEST = 1e30  # rate, with which all is lost; torch.optim.Muon refuses what no float32 holds
FEWEST = 3  # rows and columns; of a row or two there is nothing to make equal


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether its singular values are made equal; embeddings' rows are not, whatever this says."""
    return parameter.dim() == 2 and min(parameter.shape) >= FEWEST


class Group(TypedDict, total=False):
    """Weights that learn alike; ``lr`` is the optimiser's own."""

    params: list[nn.Parameter]
    factor: float
    weight_decay: float
    matrices: bool
    lr: float


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say ``matrices``, AdamW for the others; one state for both."""

    found_inf: Tensor | None = None  # on an accelerator: not zero where there shall be no step

    def __init__(self, groups: list[Group], lr: float, fused: bool) -> None:
        super().__init__(cast(list[dict[str, object]], groups), {"lr": lr})
        self.adam = torch.optim.AdamW(self._plain(False), lr, fused=fused)
        self.muon = torch.optim.Muon(self._plain(True), lr, adjust_lr_fn="match_rms_adamw")

    def _plain(self, matrices: bool) -> list[dict[str, object]]:
        """What one of the two is made for; it must have a group, if an empty one."""
        keys = ("params", "weight_decay")
        groups = [dict(group) for group in self._groups(matrices)]
        return [{key: group[key] for key in keys} for group in groups] or [{"params": []}]

    def _groups(self, matrices: bool) -> list[Group]:
        """As they are now: a state that is loaded brings others."""
        groups = cast(list[Group], self.param_groups)
        return [group for group in groups if group["matrices"] == matrices]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part, matrices in ((self.adam, False), (self.muon, True)):
            part.state = self.state
            for theirs, mine in zip(part.param_groups, self._groups(matrices), strict=False):
                theirs["lr"] = min(mine["lr"], HIGHEST)
        if self.found_inf is None:
            self.adam.step()
            self.muon.step()
        else:
            self._step_unless_infinite(self.found_inf)

    def _step_unless_infinite(self, found_inf: Tensor) -> None:
        """Fused AdamW reads the flag; Muon does not, and its weights are put back."""
        self.adam.found_inf = found_inf  # type: ignore[attr-defined]
        parameters = [p for group in self._groups(True) for p in group["params"]]
        before = [p.clone() for p in parameters]
        self.adam.step()
        self.muon.step()
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(torch.where(found_inf > 0, old, parameter))
