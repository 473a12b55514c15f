"""Settings of networks as earlier versions wrote them, in checkpoints and runs that still do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

RENAMED = {"focus": "sampling_exponent"}
# What a network did before it had the setting.
UNTIL_THEN = {"softening": 0.0}


def current(settings: Mapping[str, Value]) -> dict[str, Value]:
    """The same settings under today's names."""
    return {RENAMED.get(key, key): value for key, value in settings.items()}


def completed(settings: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """A checkpoint's settings, with those that a network did not have when it was written.

    ``known`` are those that it has.
    """
    missing = {key: value for key, value in UNTIL_THEN.items() if key in known}
    return missing | current(settings)
