"""Settings of networks that had another name once: checkpoints and runs of then still hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

RENAMED = {"focus": "sampling_exponent"}


def current(settings: Mapping[str, Value]) -> dict[str, Value]:
    """The same settings under today's names."""
    return {RENAMED.get(key, key): value for key, value in settings.items()}
