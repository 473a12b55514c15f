"""The model that a task trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neupol_cli import registry
from neupol_cli.devices import default_dtype, device_named
from neupol_cli.models.base import Model
from neupol_cli.training.parts import freeze
from neupol_cli.training.request import Request
from neupol_cli.training.start import take_over


def built(name: str, config: Mapping[str, object], request: Request) -> Model:
    """A network with random weights or those of a trained one, on its device, some of it frozen.

    Raises:
        UsageError: settings that make no network, or not the trained one's; a part that is not
            there.
    """
    with default_dtype(request.dtype) as dtype:
        torch.manual_seed(request.seed)
        model = registry.build(name, config).to(device_named(request.device), dtype)
    if request.start is not None:
        take_over(model, request.start)
    freeze(model, request.freeze)
    return model
