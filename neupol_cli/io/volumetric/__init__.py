"""Densities in files: one module a format, units converted where the file is read or written.

A format is a module with a :class:`VolumetricFormat` called ``FORMAT``, and its line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neupol_cli.errors import UsageError
from neupol_cli.io.volumetric import chgcar, cube, espresso, h5, npy, npz, xsf
from neupol_cli.io.volumetric.format import Entry, VolumetricFormat
from neupol_cli.io.volumetric.grid import DENSITY, Grid, Volume, by_counts, by_spacing

__all__ = [
    "DENSITY", "FORMATS", "READABLE", "Entry", "Grid", "Volume", "VolumetricFormat", "by_counts",
    "by_spacing", "entries", "format_of", "names_of", "read", "write", "written_as",
]  # fmt: skip

FORMATS: tuple[VolumetricFormat, ...] = (
    cube.FORMAT,
    chgcar.FORMAT,
    espresso.FORMAT,
    xsf.FORMAT,
    h5.FORMAT,
    npz.FORMAT,
    npy.FORMAT,
)
READABLE = tuple(item for item in FORMATS if item.readable)


def format_of(
    name: str | Path, wanted: tuple[VolumetricFormat, ...] = READABLE
) -> VolumetricFormat:
    """The format that a file's name tells, of all there are; ``.gz`` is looked through.

    Args:
        name: of the file.
        wanted: those that a message lists.

    Raises:
        UsageError: a name that tells nothing, or a ``.gz`` after a format that is packed as it is.
    """
    whole = Path(name).name
    base = whole.removesuffix(".gz")
    for volumetric_format in FORMATS:
        if not volumetric_format.names(base):
            continue
        if base != whole and not volumetric_format.gzipped:
            raise UsageError(
                f"{name}: {volumetric_format.name} is not packed once more; leave out .gz"
            )
        return volumetric_format
    raise UsageError(f"{name}: the name must end in {names_of(wanted)}")


def written_as(name: str | Path, other: str = "") -> VolumetricFormat:
    """The format that a file is to be written in.

    Args:
        name: of the file.
        other: what is written, where that is no density.

    Raises:
        UsageError: as :func:`format_of`; one that can only be read, or holds densities only.
    """
    able = tuple(f for f in FORMATS if f.writable and not (other and f.densities_only))
    told = format_of(name, able)
    if told in able:
        return told
    reason = f"holds no {other}" if told.writable else f"{told.name} can only be read"
    raise UsageError(f"{name}: {reason}; the name must end in {names_of(able)}")


def names_of(formats: tuple[VolumetricFormat, ...]) -> str:
    """How files of these formats are called, for messages: ``.cube or .xsf, or be a CHGCAR``."""
    *endings, last = [item.suffixes[0] for item in formats if item.suffixes]
    others = [f", or be a {item.name}" for item in formats if not item.suffixes]
    return " or ".join(filter(None, [", ".join(endings), last])) + "".join(others)


def read(path: str | Path, pbc: bool | None = None) -> Volume:
    """The density in a file that holds one; ``pbc`` and errors as :meth:`VolumetricFormat.read`."""
    return format_of(path).read(Path(path), pbc)


def entries(path: str | Path, pbc: bool | None = None) -> Iterator[Entry]:
    """Every density in a file, one at a time; as :meth:`VolumetricFormat.read`."""
    return format_of(path).entries(Path(path), pbc)


def write(path: str | Path, volume: Volume, title: str) -> None:
    """Write a density in its name's format; errors as :meth:`VolumetricFormat.write`."""
    written_as(path).write(Path(path), volume, title)
