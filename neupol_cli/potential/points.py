"""Points at which values are wanted: of the command line, or of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.structure_formats.numerals import number

SUFFIXES = (".xyz", ".csv")


def parse(texts: Sequence[str]) -> np.ndarray:
    """``1,0,-2.5`` and more of them as points (P, 3) Angstrom.

    Raises:
        UsageError: one is no point.
    """
    points = []
    for text in texts:
        try:
            points.append(_point(text.split(",")))
        except ValueError as error:
            raise UsageError(f"--at takes X,Y,Z in Angstrom, not '{text}': {error}") from error
    return np.array(points, dtype=np.float64).reshape(-1, 3)


def read(path: Path) -> np.ndarray:
    """The points (P, 3) Angstrom of a file: of an .xyz the places of its atoms, whatever they are,
    of a .csv the first three columns, under a line of names or not.

    Raises:
        UsageError: another kind of file.
        InputError: it is not there, or a line is no point.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--points: {path}: the ending is one of {', '.join(SUFFIXES)}")
    provenance.inputs(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise InputError(f"{path}: {reason}") from error
    rows = _of_xyz(path, lines) if path.suffix.lower() == ".xyz" else _of_csv(lines)
    points = []
    for line, words in rows:
        try:
            points.append(_point(words[:3]))
        except ValueError as error:
            raise InputError(f"{path}:{line}: no point: {error}") from error
    if not points:
        raise InputError(f"{path}: holds no point")
    return np.array(points)


def _point(words: Sequence[str]) -> list[float]:
    """Three words as finite numbers; ValueError says what is wrong."""
    if len(words) != 3:
        raise ValueError(f"{len(words)} numbers where three are needed")
    return [number(word.strip()) for word in words]


def _of_xyz(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, three words) of each atom; InputError unless there are as many as it says."""
    try:
        count = int(lines[0]) if lines else 0
    except ValueError:
        raise InputError(f"{path}:1: '{lines[0][:60]}' is no count of points") from None
    rows = [(line, words) for line, words in enumerate(map(str.split, lines), 1) if line > 2]
    while rows and not rows[-1][1]:
        rows.pop()
    if len(rows) != count:
        raise InputError(f"{path}: says {count} points and holds {len(rows)}")
    for line, words in rows:
        yield line, words[1:]


def _of_csv(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of each row but an empty one, and one of names at the top."""
    for line, text in enumerate(lines, 1):
        words = [word.strip() for word in text.split(",")]
        is_head = line == 1 and [word.lower()[:1] for word in words[:3]] == ["x", "y", "z"]
        if text.strip() and not is_head:
            yield line, words
