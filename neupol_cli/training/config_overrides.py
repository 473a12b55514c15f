"""Text from the command line as typed values: KEY=VALUE for a Config, NAME=NUMBER, intervals."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from neupol_cli import earlier_settings
from neupol_cli.errors import UsageError
from neupol_cli.validation import annotations_of, mismatch

# These follow from the data and from options of their own.
DERIVED = ("targets", "units")


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[text.lower()]


CONVERTERS: dict[object, Callable[[str], object]] = {int: int, float: float, str: str, bool: _truth}


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``["a=1", "b=2"]`` as a dictionary.

    Raises:
        UsageError: where there is no ``=``.
    """
    pairs_read: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{option} {text}: write KEY=VALUE")
        pairs_read.pop(key.strip(), None)  # the last one counts, in its own place
        pairs_read[key.strip()] = value.strip()
    return pairs_read


def numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    """``["energy=0.2"]`` as numbers by name.

    Raises:
        UsageError.
    """
    try:
        numbers = {key: float(value) for key, value in pairs(texts, option).items()}
    except ValueError as error:
        raise UsageError(f"{option}: {error}; write NAME=NUMBER") from error
    for key, value in numbers.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{option} {key}={value}: has to be finite and not negative")
    return numbers


def config_overrides(config: type, texts: Sequence[str]) -> dict[str, object]:
    """``--set KEY=VALUE`` for the fields of a Config dataclass, each converted to its type.

    Raises:
        UsageError: a key that the Config does not have (listing those it has) or a value that is
            not of its type, or out of range.
    """
    hints, limits = typing.get_type_hints(config), annotations_of(config)
    known = [f.name for f in dataclasses.fields(config) if f.name not in DERIVED]
    settings: dict[str, object] = {}
    for key, text in earlier_settings.current(pairs(texts, "--set")).items():
        if key not in known:
            raise UsageError(
                f"--set {key}: this model has no such setting; it has {', '.join(known)}"
            )
        try:
            settings[key] = _converted(hints[key], text)
        except (ValueError, KeyError) as error:
            name = getattr(hints[key], "__name__", None) or str(hints[key])
            raise UsageError(f"--set {key}={text}: {text!r} is no {name}") from error
        if problem := mismatch(settings[key], limits[key], "it"):
            raise UsageError(f"--set {key}={text}: {problem}")
    return settings


def check_finite(options: Mapping[str, object]) -> None:
    """Refuse what parsers let through.

    Raises:
        UsageError: an option that is infinite or no number.
    """
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(
                f"--{name.strip('_').replace('_', '-')}: {value} is not a finite number"
            )


def _converted(kind: object, text: str) -> object:
    """A value of type ``kind``: plain, ``X | None`` (the word none), or ``tuple[X, ...]`` (1,2).

    Of a Literal any word: whether it is one of them, the limits say.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return _converted(next(k for k in inner if k is not type(None)), text)
    if origin is Literal:
        return text
    if origin is tuple:
        return [_converted(inner[0], word) for word in text.split(",") if word]
    return CONVERTERS[kind](text)


def interval(text: str) -> tuple[int, float]:
    """``500`` (steps), ``60s`` (seconds) or ``500,60s`` as (steps, seconds); 0, inf where absent.

    Raises:
        UsageError.
    """
    steps, seconds = 0, float("inf")
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", word.strip())
        if not match or float(match[1] or match[2]) <= 0:
            raise UsageError(
                f"--save-every {text}: write steps (500), seconds (60s) or both (500,60s)"
            )
        if match[1]:
            steps = int(match[1])
        else:
            seconds = float(match[2])
    return steps, seconds
