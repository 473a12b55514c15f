"""What an output says of where it comes from, read back from each format's place for it."""

from __future__ import annotations

import csv
import json
import lzma
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast
from urllib.parse import unquote
from zipfile import BadZipFile

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import InputError
from neupol_cli.io import compressed, hdf5_file
from neupol_cli.io.structure_formats import comment
from neupol_cli.io.structures import is_dataset
from neupol_cli.io.volumetric import espresso
from neupol_cli.provenance import CUT, DIGITS, KEY, Record
from neupol_cli.rerun import pictures
from neupol_cli.simulation.run_folder import SETTINGS
from neupol_cli.training.run import Folder
from neupol_cli.validation import mismatch

HEAD = 3  # lines in which a text says it
_TITLE = re.compile(r"\bneupol (\d\S*): (.+)")
_SUM = rf"([0-9a-f]{{{DIGITS}}}|-)"
_SUMS = re.compile(rf", (?:model )?{_SUM},? (?:input )?{_SUM}$")


@dataclass(frozen=True)
class Said:
    """What an output says.

    Attributes:
        neupol: the version that made it.
        command: the command line.
        models, inputs: name -> checksum. Of a cube there is one without a name, its first digits;
            an input that came through a pipe may have none.
    """

    neupol: str
    command: str
    models: Mapping[str, str]
    inputs: Mapping[str, str | None]

    @property
    def words(self) -> list[str]:
        """The command line without ``neupol``.

        Raises:
            InputError: it is none that makes an output.
        """
        try:
            name, *words = shlex.split(self.command)
        except ValueError:  # no words, or quotes that do not end
            name, words = "", []
        if name != "neupol" or not words or "rerun" in words[:1]:
            raise InputError(f"'{self.command[:60]}' is no command of neupol that makes an output")
        return words

    @property
    def is_cut(self) -> bool:
        """Whether there was no room for the whole command."""
        return self.command.endswith(CUT)


def read(path: Path) -> Said:
    """What a file or a run folder says.

    Raises:
        InputError: nothing, or it is damaged.
    """
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if isinstance(found, Said):
        return _beside(path, found) if found.is_cut else found
    if found is None or mismatch(found, Record, KEY):
        raise InputError(f"{path}: does not say which command of neupol made it")
    return Said(**cast(Record, found))


def _beside(path: Path, cut: Said) -> Said:
    """What the file beside it says of one that had no room for all; the same where there is none.

    Raises:
        InputError: that says something else, or of another file.
    """
    place = provenance.beside(path)
    if not place.is_file():
        return cut
    found = _parsed(place.read_text(errors="replace"))
    if not isinstance(found, dict) or mismatch(found.get(KEY), Record, KEY):
        raise InputError(f"{place}: does not say which command of neupol made {path}")
    if found.get("sha256") != provenance.checksum(path):
        raise InputError(f"{place}: is of another file than {path} (SHA-256)")
    return Said(**cast(Record, found[KEY]))


def _of_file(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if is_dataset(path):
        with hdf5_file.opened(path) as file:
            return _parsed(str(file.attrs.get(KEY, "")))
    if path.suffix == ".npz":
        return _of_npz(path)
    if path.suffix.lower() in pictures.PLACES:
        return _parsed(pictures.record(path))
    if path.name.endswith(espresso.NAME):
        return _marked(espresso.title_of(path))
    return _of_text_file(path)


def _of_text_file(path: Path) -> object:
    try:
        with compressed.open_text(path) as stream:
            return _of_text(stream)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"{path}: the compressed file is not whole ({error})") from error


def _of_folder(path: Path) -> object:
    """Of a training, or of a dynamics."""
    settings = path / SETTINGS
    if settings.is_file():
        return _of_text_file(settings)
    folder = Folder(path)
    return folder.read_config().get("provenance") if folder["config.json"].is_file() else None


def _parsed(text: str) -> object:
    """What a text of JSON begins with; None where it is none."""
    try:
        found: object = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    return found


def _marked(line: str) -> object:
    """What stands behind ``provenance=`` in a line of text."""
    return _parsed("{" + line.partition(f"{KEY}={{")[2])


def _of_npz(path: Path) -> object:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _parsed(str(arrays[KEY])) if KEY in arrays else None
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: is no npz file: {error}") from error


def _of_text(stream: TextIO) -> object:
    """A record in the first lines of a text, or in an object of JSON."""
    lines = [stream.readline() for _ in range(HEAD)]
    if lines[0].startswith("{"):
        first = _parsed(lines[0]) or _parsed("".join(lines) + stream.read())
        return first.get(KEY) if isinstance(first, dict) else None
    if lines[0].rstrip().endswith(f",{KEY}"):
        row = next(csv.reader(lines[1:]), [])
        return _parsed(row[-1]) if row else None
    for line in lines:
        if f"{KEY}={{" in line:
            return _marked(line)
    return _of_comment(lines[1]) or _of_titles(lines)


def _of_comment(line: str) -> object:
    """A record in the comment of extended xyz."""
    try:
        value = comment.pairs(line).get(KEY)
        found = value and comment.typed(KEY, value)
    except ValueError:
        return None
    return _decoded(found)


def _decoded(value: object) -> object:
    """The same with percent signs and bytes as the characters that they stand for."""
    if isinstance(value, dict):
        return {_decoded(name): _decoded(one) for name, one in value.items()}
    return unquote(value, errors="surrogateescape") if isinstance(value, str) else value


def _of_titles(lines: list[str]) -> Said | None:
    """What both titles of a cube say."""
    title, sums = _TITLE.search(lines[0].rstrip("\n")), _SUMS.search(lines[1].rstrip("\n"))
    if title is None or sums is None:
        return None
    command = f"neupol {unquote(title[2], errors='surrogateescape')}"
    models, inputs = ({} if one == "-" else {"": one} for one in sums.groups())
    return Said(title[1], command, models, cast(dict[str, str | None], inputs))
