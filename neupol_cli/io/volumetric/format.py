"""What a volumetric format says of itself, and how its files are opened, packed and replaced."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from neupol_cli import provenance
from neupol_cli.errors import UsageError
from neupol_cli.io.files import atomic, placed, write_json
from neupol_cli.io.volumetric.grid import DENSITY, Volume
from neupol_cli.io.volumetric.text import open_text

StreamReader = Callable[[BinaryIO, str, int | None], Volume]
StreamWriter = Callable[[BinaryIO, Volume, str], None]


class VolumeWriter(Protocol):
    """A file of several structures that is being written."""

    def add(self, volume: Volume) -> None:
        """Append one structure with its density."""


@dataclass(frozen=True)
class Entry:
    """One density of a file: what it is called there, and the split of a dataset that it is in."""

    name: str
    volume: Volume
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class VolumetricFormat:
    """A file format of densities. Each module of a format ends in one, as ``FORMAT``.

    Attributes:
        name: what the format is called in messages and in code.
        suffixes: endings of its files' names; the first one is the usual one.
        matches: whether a name without one of the suffixes is one of its files all the same.
        read_stream: density of an open file (stream, name for messages, bytes if known).
        write_stream: (stream, volume, title).
        read_file, write_file: the same by path, for formats that cannot come from a stream.
        open_writer: (path, title, whether there is spin) for files of several structures.
        entries_of: every density of such a file.
        gzipped: whether a ``.gz`` may follow the name.
        holds_spin: whether a spin density has a place in it.
        holds_augmentation: whether PAW augmentation occupancies do.
        densities_only: whether values in other units have no place in it.
        refusal: why it cannot hold a volume, with what to do; None where it can.
        note: what whoever wrote one of these files should know.
        short_titles: whether a long command line has no room in it; its record is then beside it.
        structures: whether a file of it may hold a structure without a density.
        with_pbc: a density taken as periodic or not (name for messages), where the user says it.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    matches: Callable[[str], bool] = lambda base: False
    read_stream: StreamReader | None = None
    write_stream: StreamWriter | None = None
    read_file: Callable[[Path], Volume] | None = None
    write_file: Callable[[Path, Volume, str], None] | None = None
    open_writer: Callable[[Path, str, bool], AbstractContextManager[VolumeWriter]] | None = None
    entries_of: Callable[[Path], Iterator[Entry]] | None = None
    gzipped: bool = True
    holds_spin: bool = False
    holds_augmentation: bool = False
    densities_only: bool = False
    refusal: Callable[[Volume], str | None] = lambda volume: None
    note: Callable[[Volume], str] | None = None
    short_titles: bool = False
    structures: bool = False
    with_pbc: Callable[[Volume, bool, str], Volume] | None = None

    def names(self, base: str) -> bool:
        """Whether a file called ``base``, without folder and ``.gz``, is of this format."""
        return Path(base).suffix.lower() in self.suffixes or self.matches(base)

    @property
    def multiple(self) -> bool:
        """Whether one file may hold several structures."""
        return self.open_writer is not None

    @property
    def readable(self) -> bool:
        """Whether its files can be read, not only written."""
        return self.read_stream is not None or self.read_file is not None

    @property
    def writable(self) -> bool:
        """Whether its files can be written, not only read."""
        return bool(self.write_stream or self.write_file or self.open_writer)

    def as_told(self, volume: Volume, pbc: bool | None, name: str) -> Volume:
        """A density of this format, periodic or not as the user says; ``name`` is for messages.

        Raises:
            InputError: it cannot be what the user says.
        """
        return volume if pbc is None or self.with_pbc is None else self.with_pbc(volume, pbc, name)

    def read(self, path: Path, pbc: bool | None = None) -> Volume:
        """The density in a file of this format; ``pbc`` as in `as_told`.

        Raises:
            UsageError: it can only be written, or the file holds several densities.
            StorageError: the file cannot be read.
            InputError: it is not exactly what the format says, with its place.
        """
        provenance.inputs(path)
        if self.read_file is not None:
            return self.as_told(self.read_file(path), pbc, str(path))
        if self.read_stream is None:
            raise UsageError(f"{path}: {self.name} files can be written, not read; give a cube")
        stream, size = open_text(path)
        with stream:
            return self.as_told(self.read_stream(stream, str(path), size), pbc, str(path))

    def entries(self, path: Path, pbc: bool | None = None) -> Iterator[Entry]:
        """Every density in a file of this format; ``pbc`` and errors as :meth:`read`."""
        provenance.inputs(path)
        if self.entries_of is not None:
            yield from self.entries_of(path)
        else:
            yield Entry(str(path), self.read(path, pbc))

    def write(self, path: Path, volume: Volume, title: str) -> None:
        """Write one density; an earlier file stays whole until the new one is complete.

        Raises:
            UsageError: the format can only be read, or not hold this grid or these values.
            StorageError: the disk is full.
        """
        self._check(volume, path)
        if self.write_file is not None:
            self.write_file(path, volume, title)
        elif self.write_stream is not None:
            with atomic(path) as partial, partial.open("wb") as plain:
                self._write_packed(plain, volume, title, path.name.endswith(".gz"))
            if self.short_titles and not provenance.has_room(" ".join(title.split())):
                _write_beside(path)
        else:
            raise UsageError(f"{path}: {self.name} files can be read, not written here")

    def _write_packed(self, plain: BinaryIO, volume: Volume, title: str, packed: bool) -> None:
        assert self.write_stream is not None
        if not packed:
            self.write_stream(plain, volume, title)
            return
        # Without a name and a time in it, so that the same density makes the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as stream:
            self.write_stream(cast(BinaryIO, stream), volume, title)

    def _check(self, volume: Volume, path: Path) -> None:
        if self.densities_only and volume.unit != DENSITY:
            raise UsageError(
                f"{path}: holds densities only; write values in {volume.unit} as .cube or .xsf"
            )
        reason = self.refusal(volume)
        if reason is not None:
            raise UsageError(f"{path}: {reason}")


def _write_beside(path: Path) -> None:
    """The record of a file, in one of its own that says which it belongs to."""
    record = provenance.beside(placed(path))
    write_json(record, {"sha256": provenance.checksum(placed(path))})
