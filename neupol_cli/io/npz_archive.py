"""NumPy's ``.npz`` archives from elsewhere: no pickle is loaded, and nothing is allocated that is
larger than what is there."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from neupol_cli.errors import InputError, NeupolError


@contextmanager
def opened(path: str | Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz file whose arrays are all there; no pickle is ever loaded."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                _check_size(members, member, path)
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (NeupolError, PermissionError):
        raise
    except Exception as error:  # zipfile and numpy have a dozen for damaged archives
        raise InputError(f"{path}: not a whole npz file ({error})") from error


def _check_size(members: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | Path) -> None:
    """Refuse an array whose header declares more than the archive holds, before it is allocated."""
    with members.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise InputError(
            f"{path}: {member.filename} declares {shape}, which the file does not hold"
        )
