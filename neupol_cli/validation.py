"""Whether plain values, of JSON or a command line, are what type annotations say.

One mechanism for all that comes from outside: networks' settings, a checkpoint's header, a run
folder's options. ``Annotated`` types may carry constraints with a ``refusal`` (models/settings.py).
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Union, runtime_checkable

from neupol_cli.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WORDS: dict[object, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text",
    type(None): "nothing",
}  # fmt: skip
BRIEF = Repr()  # of values in messages
BRIEF.maxlevel, BRIEF.maxstring = 2, 60


@runtime_checkable
class Constraint(Protocol):
    """What ``Annotated`` carries beside a type."""

    def refusal(self, value: object) -> str:
        """What the value should be instead; empty where it fits."""


def check_settings(config: DataclassInstance) -> None:
    """Refuses a dataclass of settings whose values are not of their types, or out of range.

    Raises:
        UsageError: naming the first one.
    """
    hints = annotations_of(type(config))
    for field in fields(config):
        if problem := mismatch(getattr(config, field.name), hints[field.name], field.name):
            raise UsageError(problem)


def other_format(found: object, known: int) -> str:
    """Why a file of that format is not read; empty where it is the known one."""
    if type(found) is int and found == known:
        return ""
    later = type(found) is int and found > known
    advice = "; a newer neupol wrote it: update this one" if later else ""
    return f"has format {BRIEF.repr(found)}, this neupol reads {known}{advice}"


@cache
def annotations_of(kind: type) -> Mapping[str, object]:
    """Name -> annotation, constraints included."""
    return typing.get_type_hints(kind, include_extras=True)


def mismatch(value: object, hint: object, place: str) -> str:
    """Why a value is not what an annotation says.

    Args:
        value: plain: numbers, texts, lists or tuples, dictionaries.
        hint: a type, a union, tuple[X, ...], list[X], dict[str, X], Literal, TypedDict, Annotated.
        place: what to call the value.

    Returns:
        ``PLACE is VALUE, not WHAT IT SHOULD BE``; empty where it fits.
    """
    return next(_problems(value, hint, place), "")


def _problems(value: object, hint: object, place: str) -> Iterator[str]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from _problems(value, inner[0], place)
        for constraint in inner[1:]:
            if isinstance(constraint, Constraint) and (wanted := constraint.refusal(value)):
                yield _sentence(value, wanted, place)
    elif origin in (Union, types.UnionType):
        if all(mismatch(value, one, place) for one in inner):
            yield _problem_of_union(value, inner, place)
    elif origin is Literal:
        if value not in inner:
            yield _sentence(value, " or ".join(map(repr, inner)), place)
    elif origin in (tuple, list):
        yield from _in_list(value, inner[0], place)
    elif origin is dict or typing.is_typeddict(hint):
        yield from _in_mapping(value, hint, place)
    elif not _is(value, hint):
        yield _sentence(value, WORDS.get(hint, "what belongs there"), place)


def _problem_of_union(value: object, inner: tuple[object, ...], place: str) -> str:
    """That of the only choice beside None, else what the choices are."""
    real = [one for one in inner if one is not type(None)]
    if len(real) == 1:
        return mismatch(value, real[0], place)
    return _sentence(value, " or ".join(WORDS.get(one, "") for one in inner), place)


def _in_list(value: object, item: object, place: str) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield _sentence(value, "a list", place)
        return
    for index, one in enumerate(value):
        yield from _problems(one, item, f"{place}[{index}]")


def _in_mapping(value: object, hint: object, place: str) -> Iterator[str]:
    """Of a TypedDict only the keys that it knows are looked at, those that are there."""
    if not isinstance(value, dict):
        yield _sentence(value, "a table of names and values", place)
        return
    required: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
    yield from (f"{place} lacks {key}".lstrip() for key in sorted(required - value.keys()))
    of_all = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    known = {} if of_all is not None or not isinstance(hint, type) else annotations_of(hint)
    for key, one in value.items():
        if of_all is not None or key in known:
            yield from _problems(one, known.get(key, of_all), f"{place}.{key}".lstrip("."))


def _is(value: object, kind: object) -> bool:
    """Whether a value is of a plain type; a whole number is a number too, true is none."""
    if kind is object:
        return True
    if isinstance(value, int) and not isinstance(value, bool) and kind is float:
        return abs(value) <= sys.float_info.max
    return type(value) is kind


def _sentence(value: object, wanted: str, place: str) -> str:
    return f"{place} is {BRIEF.repr(value)}, not {wanted}"
