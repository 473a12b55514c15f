"""The comment line of extended xyz: ``key=value`` pairs, each value with its type.

    key=word  key="several words"  key='...'  key={1 2 3}  key=[1, 2, 3]  key=[[1, 2], [3, 4]]  key

Words that are all whole numbers, numbers or truths become such, several an array; a lone key is
true. Everything else stays the text that it is: ``C2D6``, ``7e5d2c`` and ``3d2`` are names, and
Fortran's exponent is one behind a decimal point only (``1.5D1``), where Fortran writes it. Two
backslashes are one, and in quotes one is what stands behind it. :func:`writable` is for writers.
Format: https://github.com/libAtoms/extxyz.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neupol_cli.io.structure_formats.numerals import plain

TRUTH = dict.fromkeys(("T", "True", "TRUE", "true", "t", "1"), True)
TRUTH |= dict.fromkeys(("F", "False", "FALSE", "false", "f", "0"), False)
TENSORS = ("stress", "virial")  # of 6 numbers in Voigt's order or of 9
VOIGT = [0, 5, 4, 5, 1, 3, 4, 3, 2]  # xx yy zz yz xz xy -> rows of the matrix
CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
UNTYPED = ("uid",)
JSON = "_JSON "  # stands before a value that is more than a text
OF_THE_FORMAT = ("", "lattice", "pbc", "properties")  # keys that say what the file holds

_SPACE = re.compile(r"\s*")
_EQUALS = re.compile(r"\s*=")
_KEY = re.compile(r"""[^\s="']+|["']""")
_BARE = re.compile(r"\S*")
_WORD = re.compile(r"[^\s,]+")
_CONTROL = re.compile(r"[^\S ]|[\x00-\x1f\x7f]")
_NO_KEY = re.compile(rf"{_CONTROL.pattern}|[=\\\\]")
_NEXT_KEY = re.compile(r"""\s+[A-Za-z_][^\s="']*=""")  # behind the equals sign of an empty value
_MORE_FLAGS = re.compile(rf"(?:[\s,]+(?:{'|'.join(TRUTH)})(?![^\s,])){{1,2}}(?!\s*=)")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})\Z")
_REAL = re.compile(
    r"[+-]?(?!0\d+\Z)(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+|\*\^[+-]?\d+)?"
    r"|(?:\d+\.\d*|\.\d+)[dD][+-]?\d+|nan|inf|infinity)\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Value:
    """What stands behind a key, without its quotes; ``mark`` is the one it began with, if any."""

    text: str
    mark: str = ""


def pairs(text: str) -> dict[str, Value | None]:
    """Every key of a comment line and its value, None behind a lone key.

    Raises:
        ValueError: a value whose quotes or brackets do not end, a key that has two values.
    """
    found: dict[str, Value | None] = {}
    for key, value in _scan(text):
        if value is not None and found.get(key) is not None:
            raise ValueError(f"'{key[:40]}' is given twice")
        if value is not None or key not in found:
            found[key] = value
    return found


def _scan(text: str) -> Iterator[tuple[str, Value | None]]:
    place = _skip(_SPACE, text, 0)
    while place < len(text):
        start = _KEY.match(text, place)
        if start is None:  # an equals sign without a key
            place = _skip(_SPACE, text, place + 1)
            continue
        key, place = start[0], start.end()
        if key in CLOSING:
            key, place = _quoted_key(text, start.start())
        equals = _EQUALS.match(text, place)
        value = None
        if equals is not None:
            value, place = _value(key, text, equals.end())
        yield key, value
        place = _skip(_SPACE, text, place)


def _skip(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return place if match is None else match.end()


def _quoted_key(text: str, place: int) -> tuple[str, int]:
    """A key in quotes; a quote that nothing closes is free text."""
    try:
        return _enclosed("", text, place)
    except ValueError:
        return text[place], place + 1


def _value(key: str, text: str, place: int) -> tuple[Value, int]:
    """The value behind the equals sign that ends at ``place``, and where it ends."""
    if _NEXT_KEY.match(text, place):
        return Value(""), place
    place = _skip(_SPACE, text, place)
    mark = text[place : place + 1]
    if mark in CLOSING:
        inner, end = _enclosed(key, text, place)
        return Value(inner, mark), end
    end = _skip(_BARE, text, place)
    if key.lower() == "pbc" and text[place:end].strip(",") in TRUTH:  # pbc=T T F, without quotes
        end = _skip(_MORE_FLAGS, text, end)
    return Value(text[place:end].replace("\\\\", "\\")), end


def _enclosed(key: str, text: str, place: int) -> tuple[str, int]:
    """What is between the mark at ``place`` and the one that closes it, and where that ends."""
    opening, depth = text[place], 0
    closing, inner = CLOSING[opening], []
    while place < len(text):
        letter = text[place]
        depth += (letter == opening and (depth == 0 or opening != closing)) - (
            letter == closing and depth > 0
        )
        if letter == "\\" and opening == closing:
            place += 1
            inner.append(text[place : place + 1])
        else:
            inner.append(letter)
        place += 1
        if depth == 0:
            return "".join(inner)[1:-1], place
    raise ValueError(f"the value of '{key[:40]}' begins with {opening} and has no {closing}")


def typed(key: str, value: Value | None) -> object:
    """The value as number, truth, array or text.

    ``stress`` and ``virial`` of six numbers, in Voigt's order xx yy zz yz xz xy, or of nine become
    (3,3).

    Raises:
        ValueError: JSON that is none.
    """
    if value is None:
        return True
    text = value.text
    if key.lower() in UNTYPED:
        return text
    if text.startswith(JSON):
        return _from_json(text.removeprefix(JSON))
    rows = re.findall(r"\[([^\[\]]*)\]", text) if value.mark == "[" else []
    if rows:
        return _matrix(rows, text)
    numbers = _numbers(_WORD.findall(text))
    if numbers is not None:
        return _tensor(key, numbers)
    return _truths(_WORD.findall(text), text)


def writable(info: Mapping[str, object]) -> dict[str, object]:
    """Info as ASE has to be given it, so that ASE and we read back what it was.

    ASE writes backslashes, line ends, tabs and empty texts as they are, which ends the line, the
    value or the next one. Keys that are the format's own get ``(input)`` behind them.
    """
    return {_writable_key(key, value): _writable(value) for key, value in info.items()}


def _writable_key(key: str, value: object) -> str:
    taken = key.lower() in OF_THE_FORMAT or (
        key.lower() in TENSORS and np.asarray(value, object).size != 9
    )
    return _NO_KEY.sub("_", f"{key} (input)" if taken else key)


def _writable(value: object) -> object:
    if isinstance(value, str):
        odd = not value or value.startswith(JSON) or _CONTROL.search(value)
        text = JSON + json.dumps(value) if odd else value
    elif isinstance(value, dict) or (isinstance(value, list | tuple) and not _is_numeric(value)):
        text = JSON + json.dumps(value, default=str)
    else:
        return value
    return text.replace("\\", "\\\\")


def _is_numeric(value: Sequence[object]) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # of unequal lengths
        return False


def item(text: str) -> object:
    """What a record says behind a name of its own, with its type; text where it is nothing else."""
    try:
        return typed("", Value(text))
    except ValueError:
        return text


def _from_json(text: str) -> object:
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{text[:40]}' is no JSON") from error
    if isinstance(content, list):
        try:
            array = np.array(content)
        except ValueError:  # of unequal lengths
            return content
        return array if array.dtype.kind in "ifb" else content
    return content


def _matrix(rows: list[str], text: str) -> object:
    """(R,C) numbers; text where they are none."""
    found = [_numbers(_WORD.findall(row)) for row in rows]
    numbers = [row for row in found if row is not None]
    if len(numbers) < len(found) or len({len(row) for row in numbers}) > 1:
        return text
    return np.array(numbers)


def _numbers(words: list[str]) -> np.ndarray | None:
    """(W,) whole or real numbers, or None where a word is not one."""
    if not words:
        return None
    if all(map(_WHOLE.match, words)):
        return np.array([int(word) for word in words])
    if all(map(_REAL.match, words)):
        return np.array([float(plain(word)) for word in words])
    return None


def _tensor(key: str, numbers: np.ndarray) -> object:
    if key.lower() in TENSORS and len(numbers) == 6:
        return numbers[VOIGT].reshape(3, 3)
    if key.lower() in TENSORS and len(numbers) == 9:
        return numbers.reshape(3, 3, order="F")
    return numbers if len(numbers) > 1 else numbers[0].item()


def _truths(words: list[str], text: str) -> object:
    """One or several truths; T and F as letters only in capitals; or else the text itself."""
    if not words or any(word not in TRUTH or word in ("t", "f") for word in words):
        return text
    flags = [TRUTH[word] for word in words]
    return flags if len(flags) > 1 else flags[0]
