"""Where a network computes, and in which type of number."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from neupol_cli.distributed.torchrun import rank_and_size
from neupol_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_building = threading.Lock()


def dtype_named(name: str, option: str = "--dtype") -> torch.dtype:
    """``float32`` or ``float64``. Errors: UsageError, which names the option."""
    import torch

    kinds = {"float32": torch.float32, "float64": torch.float64}
    if name not in kinds:
        raise UsageError(f"{option} is one of {', '.join(kinds)}, not '{name}'")
    return kinds[name]


@contextmanager
def default_dtype(name: str) -> Iterator[torch.dtype]:
    """``float32`` or ``float64`` as torch's default, while a model is built.

    The default is the whole process', as is the seed of what is drawn: one thread at a time.
    """
    import torch

    chosen = dtype_named(name, "--default-dtype")
    with _building:
        earlier = torch.get_default_dtype()
        torch.set_default_dtype(chosen)
        try:
            yield chosen
        finally:
            torch.set_default_dtype(earlier)


def device_named(name: str) -> torch.device:
    """A device by name; ``auto`` is the GPU where there is one. Errors: UsageError.

    Of several processes on a machine each has a GPU of its own.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and rank_and_size()[1] > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"--device {name}: not usable here: {reason}") from error
    return device
