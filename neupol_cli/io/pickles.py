"""What stands in a pickle, without unpickling it.

A pickle is a program for a small stack machine, and Python's runs whatever it names: even arrays
and their types can be made by it in ways that NumPy does not survive. Here the machine only takes
notes. A class or a function is its name, calling it gives a :class:`Made`, and nobody ever calls.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Name(NamedTuple):
    """A class or a function that a pickle names."""

    module: str
    name: str


@dataclass(eq=False)
class Made:
    """An object: what would be called, with what, and the state that it is given then."""

    by: Name
    arguments: tuple[object, ...]
    state: object = None


class NotPlain(ValueError):
    """A pickle that is cut short, damaged, or does something that plain data do not need."""


def read(content: bytes) -> object:
    """The object in a pickle of any protocol, as dictionaries, lists, numbers, texts and `Made`.

    Raises:
        NotPlain: see there.
    """
    notes = _Notes()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return notes.stack.pop()
            notes.take(opcode.name, argument)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise NotPlain(str(error) or type(error).__name__) from error
    raise NotPlain("it is cut short")


MARK = object()
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUT = ("PUT", "BINPUT", "LONG_BINPUT")
GET = ("GET", "BINGET", "LONG_BINGET")


@dataclass
class _Notes:
    """The machine: what it has on its stack and in its memo."""

    stack: list = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def take(self, name: str, argument: object) -> None:
        """One instruction."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self._last(TUPLES[name])))
        elif name in PUT:
            self.memo[int(argument)] = self.stack[-1]  # type: ignore[call-overload]
        elif name in GET:
            self.stack.append(self.memo[int(argument)])  # type: ignore[call-overload]
        elif name == "GLOBAL":
            module, _, what = str(argument).partition(" ")
            self.stack.append(Name(module, what))
        elif name in STEPS:
            STEPS[name](self)
        elif name not in ("PROTO", "FRAME"):
            raise NotPlain(f"it has the instruction {name}")

    def _last(self, count: int) -> list:
        taken = self.stack[-count:]
        if len(taken) < count:
            raise NotPlain("it takes what is not there")
        del self.stack[-count:]
        return taken

    def _marked(self) -> list:
        """All since the last mark."""
        place = max(k for k, item in enumerate(self.stack) if item is MARK)
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def mark(self) -> None:
        self.stack.append(MARK)

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def gather_tuple(self) -> None:
        self.stack.append(tuple(self._marked()))

    def gather_list(self) -> None:
        self.stack.append(self._marked())

    def gather_dict(self) -> None:
        taken = self._marked()
        self.stack.append(dict(zip(taken[::2], taken[1::2], strict=True)))

    def set_item(self) -> None:
        key, value = self._last(2)
        self.stack[-1][key] = value

    def set_items(self) -> None:
        taken = self._marked()
        self.stack[-1].update(zip(taken[::2], taken[1::2], strict=True))

    def append(self) -> None:
        (value,) = self._last(1)
        self.stack[-1].append(value)

    def extend(self) -> None:
        taken = self._marked()
        self.stack[-1].extend(taken)

    def name(self) -> None:
        module, name = self._last(2)
        self.stack.append(Name(str(module), str(name)))

    def make(self) -> None:
        by, arguments = self._last(2)
        if not isinstance(by, Name) or not isinstance(arguments, tuple):
            raise NotPlain("it calls what is no function")
        self.stack.append(Made(by, arguments))

    def give_state(self) -> None:
        (state,) = self._last(1)
        if not isinstance(self.stack[-1], Made):
            raise NotPlain("it gives a state to what has none")
        self.stack[-1].state = state


STEPS: dict[str, Callable[[_Notes], None]] = {
    "MARK": _Notes.mark,
    "MEMOIZE": _Notes.memoize,
    "TUPLE": _Notes.gather_tuple,
    "LIST": _Notes.gather_list,
    "DICT": _Notes.gather_dict,
    "SETITEM": _Notes.set_item,
    "SETITEMS": _Notes.set_items,
    "APPEND": _Notes.append,
    "APPENDS": _Notes.extend,
    "STACK_GLOBAL": _Notes.name,
    "REDUCE": _Notes.make,
    "NEWOBJ": _Notes.make,
    "BUILD": _Notes.give_state,
}


def class_of(value: object) -> Name | None:
    """The class of an object; of those that the oldest protocols make by a helper, too."""
    if not isinstance(value, Made):
        return None
    if value.by.name == "_reconstructor" and value.arguments:
        first = value.arguments[0]
        return first if isinstance(first, Name) else None
    return value.by


def attributes(value: object) -> dict[str, object]:
    """An object's.

    Raises:
        NotPlain: it has none.
    """
    if not isinstance(value, Made) or not isinstance(value.state, dict):
        raise NotPlain("it is no object with attributes")
    return value.state


def array(value: object) -> np.ndarray:
    """An array of numbers or truths, from its type, its shape and its bytes.

    Raises:
        NotPlain: it is no such array.
    """
    if not isinstance(value, Made):
        raise NotPlain("a list stands where an array should")
    try:
        if value.by.name == "_frombuffer":  # protocol 5
            content, dtype, shape, order = value.arguments
        else:
            if not isinstance(value.state, tuple):
                raise NotPlain("an array has no numbers")
            _, shape, dtype, by_columns, content = value.state
            order = "F" if by_columns else "C"
        flat = np.frombuffer(_bytes(content), _type(dtype))
        return flat.reshape(shape, order=order)  # type: ignore[call-overload]
    except (ValueError, TypeError) as error:
        raise NotPlain(f"an array is not whole ({error})") from error


def _bytes(value: object) -> bytes:
    """Bytes, which protocols before 3 have as a text that is to be encoded."""
    if isinstance(value, Made) and value.by.name == "encode" and value.arguments:
        value = value.arguments[0]
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise NotPlain("an array has no bytes")
    return bytes(value)


KINDS = {"f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def _type(value: object) -> np.dtype:
    """A type of number by its kind and its order of bytes."""
    if not isinstance(value, Made) or not value.arguments or value.arguments[0] not in KINDS:
        raise NotPlain("an array is of no plain type of number")
    state = value.state if isinstance(value.state, tuple) else ()
    order = state[1] if len(state) > 1 else "="
    if order not in ("<", ">", "|", "="):
        raise NotPlain("an array has an unknown order of bytes")
    return np.dtype(f"{order}{value.arguments[0]}")
