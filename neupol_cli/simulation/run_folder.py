"""The folder of a run of dynamics: how it was begun, and the files of each of its structures."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from neupol_cli import provenance, registry
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.io.files import locked_folder, write_json
from neupol_cli.models.settings import Range
from neupol_cli.simulation.dynamics import Files
from neupol_cli.simulation.integrators import Ensemble
from neupol_cli.simulation.state import DAMAGE
from neupol_cli.validation import check_settings, other_format

SETTINGS = "settings.json"
FORMAT = 1
TO_FS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}


@dataclass(frozen=True)
class Settings:
    """How a run was begun; what it goes on with.

    Attributes:
        name: what `-m` named.
        model: the same, files and folders with their whole path.
        sha256: of its file.
        dtype: of numbers.
        ensemble: what is held constant.
        every: steps between frames.
        steps: that were wanted last.
        structures: how many move.
        accept: whether they go on where the model's domain is left.
    """

    name: str
    model: str
    sha256: str
    dtype: str
    ensemble: Ensemble
    every: Annotated[int, Range(1, sys.maxsize)]
    steps: Annotated[int, Range(0, sys.maxsize)]
    structures: Annotated[int, Range(0, sys.maxsize)]
    accept: bool = False  # as runs of before mean it

    def write(self, folder: Path) -> None:
        """Into a folder; errors as ``files.atomic``."""
        write_json(folder / SETTINGS, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """From a folder.

        Raises:
            InputError: there is no run in it.
            CheckpointError: its settings cannot be read, or its model is another one by now.
        """
        path = folder / SETTINGS
        if not path.is_file():
            raise InputError(f"{folder}: holds no run of `neupol md`")
        try:
            stored = json.loads(path.read_text())
            stored.pop(provenance.KEY, None)
            if problem := other_format(stored.pop("format", FORMAT), FORMAT):
                raise CheckpointError(f"{path}: {problem}")
            settings = cls(**stored | {"ensemble": Ensemble(**stored["ensemble"])})
            check_settings(settings)
            check_settings(settings.ensemble)
        except (*DAMAGE, UsageError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        if model_digest(settings.model) != settings.sha256:
            raise CheckpointError(
                f"{folder}: {settings.model} is not what it was when the run was begun"
            )
        return settings


def model_digest(source: str) -> str:
    """SHA-256 of the file behind ``-m`` (InputError: there is none)."""
    return hashlib.sha256(registry.located(source).read_bytes()).hexdigest()


def lasting(source: str) -> str:
    """What ``-m`` names, from whatever folder: a file by its whole path, bundled as such."""
    path = Path(source)
    return str(path.absolute()) if path.exists() else source


def files(folder: Path, structures: int) -> Iterator[Files]:
    """Of each structure; numbered from 0 where there are several."""
    for k in range(structures):
        mark = f"-{k}" if structures > 1 else ""
        yield Files(
            folder / f"trajectory{mark}.extxyz",
            folder / f"energies{mark}.tsv",
            folder / f"last{mark}.state",
        )


@contextmanager
def begun(folder: Path) -> Iterator[None]:
    """Holds a new folder for a run.

    Raises:
        UsageError: there is a run in it, or anything else.
        TemporaryError: another process is at work in it.
    """
    with locked_folder(folder):
        if (folder / SETTINGS).exists():
            raise UsageError(
                f"{folder}: holds a run; --resume -o {folder} goes on with it, or name another one"
            )
        if any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; name a new folder")
        yield


def steps_of(duration: str, timestep: float) -> int:
    """``10ps`` as a number of steps.

    Args:
        duration: with fs, ps or ns behind it.
        timestep: fs.

    Raises:
        UsageError: it is none, or not a whole number of steps.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(fs|ps|ns)", duration.strip())
    if found is None:
        raise UsageError(f"--time takes such as 500fs, 10ps or 1ns, not '{duration}'")
    steps = float(found[1]) * TO_FS[found[2]] / timestep
    if abs(steps - round(steps)) > 1e-6 * max(1.0, steps):
        raise UsageError(f"--time {duration} is no whole number of steps of {timestep:g} fs")
    return round(steps)


def given_twice(options: Sequence[str]) -> UsageError:
    """What is said of options that a run which goes on has already."""
    return UsageError(f"--resume goes on with what the run has: leave {', '.join(options)} out")
