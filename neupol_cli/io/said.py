"""What a structure's file says of it, such as an id, a name or a measured value, for answers."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms

from neupol_cli import provenance
from neupol_cli.io.structures import CONFORMERS, DOUBTS

OURS = (CONFORMERS, DOUBTS, provenance.KEY)  # which is not the file's, or of an earlier output


def of(atoms: Atoms) -> dict[str, object]:
    """Its info as JSON has it: text, truths, numbers and lists; numbers that are not finite as
    text."""
    return {str(key): _plain(value) for key, value in atoms.info.items() if key not in OURS}


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | bool | int | float | None) else str(value)
