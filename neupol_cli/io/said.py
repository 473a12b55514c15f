"""What a structure's file says of it, such as an id, a name or a measured value, for every output.

It stands in ``Atoms.info``. JSON has it under ``info`` (:func:`item`), tables in columns
(:func:`with_columns`) or in one of JSON (:func:`text`), HDF5 as lines of JSON, extended xyz in its
comment; files that hold several structures have what each is called, too (:func:`named`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ase import Atoms

from neupol_cli import provenance

STRUCTURE = "structure"  # what it was called when it was read
# In a structure's info, never in a file:
DOUBTS = "doubts of the reading"
CONFORMERS = "conformers of the reading"
OURS = (CONFORMERS, DOUBTS, provenance.KEY)  # which is not the file's, or of an earlier output

Info = Mapping[str, object]


def of(atoms: Atoms) -> dict[str, object]:
    """Its info as JSON has it: text, truths, numbers and lists; numbers that are not finite as
    text."""
    return {str(key): _plain(value) for key, value in atoms.info.items() if key not in OURS}


def item(info: Info) -> dict[str, Info]:
    """It as an item of a JSON object; none where nothing is said."""
    return {"info": info} if info else {}


def text(info: Info) -> str:
    """It as a cell of a table whose columns are settled before it is known; empty where nothing is
    said."""
    return json.dumps(info) if info else ""


def named(label: str, atoms: Atoms) -> Atoms:
    """A copy that says what the structure was called when it was read first, if it does not yet."""
    copy = atoms.copy()
    copy.info.setdefault(STRUCTURE, label)
    return copy


def with_columns(rows: Sequence[list[str]], infos: Sequence[Info]) -> list[list[str]]:
    """A table with columns for all that is said of any structure.

    Args:
        rows: the header, and a row a structure.
        infos: of each structure; of a name that the header has already, the column is ``NAME
            (input)``.
    """
    heads = rows[0]
    names = list(dict.fromkeys(name for info in infos for name in info))
    taken = {*heads, provenance.KEY}
    columns = [f"{name} (input)" if name in taken else name for name in names]
    cells = [[_cell(info[name]) if name in info else "" for name in names] for info in infos]
    return [[*heads, *columns], *(row + more for row, more in zip(rows[1:], cells, strict=True))]


def lines(infos: Iterable[Info]) -> np.ndarray:
    """(B,) uint8: a line of JSON a structure, as HDF5 keeps them."""
    return np.frombuffer("\n".join(map(json.dumps, infos)).encode(), np.uint8)


def from_lines(stored: np.ndarray) -> tuple[Info, ...]:
    """What :func:`lines` made them of.

    Raises:
        ValueError: it is nothing of the kind.
    """
    found = [json.loads(line) for line in stored.tobytes().decode().split("\n")]
    if not all(isinstance(info, dict) for info in found):
        raise ValueError("a line is no object of JSON")
    return tuple({key: info[key] for key in info if key not in OURS} for info in found)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
