"""Electron densities from the files that people have: cubes, CHGCARs, folders and tars of them.

Tars are read member by member in the order in which they come, so that a data set larger than
memory passes through; members may be plain, ``.gz``, ``.zz`` (zlib) or ``.lz4``, as DeepDFT's
published sets are (Jorgensen, Bhowmik, npj Comput. Mater. 8, 183, 2022).
"""

from __future__ import annotations

import importlib
import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from neupol_cli.datasets import splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import structures, volumetric
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.hdf5 import read as read_hdf5
from neupol_cli.io.volumetric import Volume
from neupol_cli.io.volumetric.format import StreamReader
from neupol_cli.io.volumetric.h5 import channels, labels, volume_of
from neupol_cli.io.volumetric.text import open_text
from neupol_cli.text import printable

PACKED = (".gz", ".zz", ".lz4")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
Opener = Callable[[], Volume]


def volumes(paths: Iterable[Path]) -> Iterator[tuple[str, Opener]]:
    """Every density in files, folders, tars and density HDF5 files: its name, and how to read it.

    Each must be read, or left, before the next one is asked for (a tar is a stream).

    Raises:
        UsageError: a path that holds no density.
        InputError: a damaged tar.
    """
    for path in paths:
        any_density = False
        for item in _volumes_of(path):
            any_density = True
            yield item
        if not any_density:
            known = volumetric.names_of(tuple(f for f in volumetric.FORMATS if f.readable))
            raise UsageError(f"{path}: no density in it; a file of one must end in {known}")


def _volumes_of(path: Path) -> Iterator[tuple[str, Opener]]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file() and _stream_reader(child.name) is not None:
                yield str(child), _file_opener(child)
    elif path.name.lower().endswith(TARS):
        yield from _members(path)
    elif path.suffix in (".h5", ".hdf5"):
        yield from _structures(path)
    else:
        volumetric.format_of(_unpacked(path.name))  # Usage when the name says nothing
        yield str(path), _file_opener(path)


def _unpacked(name: str) -> str:
    return name.removesuffix(Path(name).suffix) if name.endswith(PACKED) else name


def _stream_reader(name: str) -> StreamReader | None:
    """What reads a file of this name, None where it is no density that comes from a stream."""
    try:
        return volumetric.format_of(_unpacked(Path(name).name)).read_stream
    except UsageError:
        return None


def _file_opener(path: Path) -> Opener:
    def read() -> Volume:
        if not path.name.endswith((".zz", ".lz4")):
            return volumetric.read(path)
        with open_text(path)[0] as stream:
            return _read_packed(stream, path.name, str(path))

    return read


def _members(path: Path) -> Iterator[tuple[str, Opener]]:
    try:
        _check_end(path)
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and _stream_reader(member.name) is not None:
                    stream = archive.extractfile(member)
                    assert stream is not None  # isfile
                    yield member.name, _member_opener(stream, path, member.name)
    except (tarfile.TarError, EOFError, zlib.error) as trouble:
        raise InputError(f"{path}: the tar is damaged or cut short ({trouble})") from trouble


def _check_end(path: Path) -> None:
    """Python's tarfile takes a tar that is cut between two members for a whole one; a whole one
    ends in zeros. (A compressed tar that is cut says so itself.)"""
    with path.open("rb") as stream:
        plain = stream.read(512)[257:262] == b"ustar"
        stream.seek(max(0, path.stat().st_size - 512))
        if plain and stream.read().strip(b"\0"):
            raise InputError(f"{path}: the tar is cut short (no end mark)")


def _member_opener(stream: IO[bytes], path: Path, name: str) -> Opener:
    return lambda: _read_packed(stream, name, f"{path}({name})")


def _read_packed(stream: IO[bytes], name: str, label: str) -> Volume:
    """The density in a stream that may be compressed; `label` is for messages."""
    unpack = {".gz": _gunzip, ".zz": _inflate, ".lz4": _unlz4}.get(Path(name).suffix)
    try:
        content = stream.read()
    except (tarfile.TarError, EOFError, zlib.error) as trouble:
        raise InputError(f"{label}: the tar is damaged or cut short ({trouble})") from trouble
    text = content if unpack is None else unpack(content, label)
    read = _stream_reader(name)
    assert read is not None  # only such names come here
    return read(io.BytesIO(text), label, len(text))


def _gunzip(content: bytes, label: str) -> bytes:
    import gzip

    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as trouble:
        raise InputError(f"{label}: damaged gzip ({trouble})") from trouble


def _inflate(content: bytes, label: str) -> bytes:
    try:
        return zlib.decompress(content)
    except zlib.error as trouble:
        raise InputError(f"{label}: damaged zlib ({trouble})") from trouble


def _unlz4(content: bytes, label: str) -> bytes:
    try:
        frame = importlib.import_module("lz4.frame")
    except ImportError as trouble:
        raise UsageError(
            f"{label}: is compressed with lz4: pip install lz4, or unpack it"
        ) from trouble
    try:
        return bytes(frame.decompress(content))
    except (RuntimeError, EOFError) as trouble:
        raise InputError(f"{label}: damaged lz4 ({trouble})") from trouble


def _structures(path: Path) -> Iterator[tuple[str, Opener]]:
    dataset = read_hdf5(path)
    if dataset.density is None:
        raise InputError(f"{path}: holds no densities")
    for index in range(dataset.size):
        yield f"{path}[{index}]", lambda index=index: volume_of(dataset, index)  # type: ignore[misc]


@dataclass
class Report:
    """What became of the files: how many were read, which were not and why, what looks odd."""

    read: int = 0
    failed: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    sum_errors: list[float] = field(default_factory=list)  # |sum - electrons| / electrons
    valence: dict[int, float] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)


class Collector:
    """Puts volumes into a density file, one at a time, and keeps what the file must say of them."""

    def __init__(self, writer: DensityWriter) -> None:
        self.writer = writer
        self.report = Report()
        self.numbers: list[np.ndarray] = []
        self.electrons: list[float] = []
        self.notes: list[Mapping[str, object]] = []
        self.identities: set[int] = set()

    def add(self, name: str, volume: Volume, identity: int | None = None) -> None:
        """Append one density; InputError for a structure that is refused everywhere, and where the
        electrons are not those that it claims."""
        structures.check(volume.atoms, name)
        electrons = self._plausible(name, volume)
        values = channels(volume, self.writer.spin)
        identity = self._identity(name) if identity is None else identity
        grid = volume.grid
        self.writer.add(volume.atoms, values, grid.origin, grid.step, identity)
        self.identities.add(identity)
        self.numbers.append(volume.atoms.numbers)
        self.electrons.append(electrons)
        self.notes.append(volume.notes | {"electrons": electrons})
        self.report.read += 1

    def _plausible(self, name: str, volume: Volume) -> float:
        """Electrons as stated by the file, or else the sum over the grid."""
        electrons = volume.electrons
        stated = volume.notes.get("electrons")
        protons = int(volume.atoms.numbers.sum())
        if stated is not None:
            error = abs(electrons - stated) / abs(stated) if stated else float("inf")
            if error > 0.25:
                raise InputError(
                    f"{name}: its values sum to {electrons:.3f} electrons, it says {stated:g}"
                )
            self.report.sum_errors.append(error)
            return float(stated)
        if electrons <= 0 or electrons > 1.1 * protons + 2:
            raise InputError(
                f"{name}: {electrons:.3f} electrons on {protons} protons; the density must be in "
                "the unit of its format (cube: e/bohr^3, CHGCAR: density x volume)"
            )
        if abs(electrons - round(electrons)) > 0.05:
            self.report.odd.append(f"{name}: {electrons:.3f} electrons, not a whole number")
        return electrons

    def _identity(self, name: str) -> int:
        """The last number in the name, if no other structure has it; else the count."""
        digits = re.findall(r"\d+", Path(_unpacked(Path(name).name)).stem)
        identity = int(digits[-1]) if digits and len(digits[-1]) < 18 else self.report.read
        while identity in self.identities:
            identity = max(self.identities) + 1
        return identity

    def finish(
        self,
        counts: tuple[int, ...] | None,
        seed: int,
        known: dict[int, float] | None = None,
    ) -> Report:
        """Store labels, valences (as `known`, or else found from the counts) and the split."""
        if not self.report.read:
            raise InputError(f"{self.writer.path}: not one density could be read")
        targets = labels(self.notes)
        self.report.valence = known or valence(self.numbers, np.array(self.electrons))
        self.writer.label(targets, {"electrons": self.report.valence})
        parts = splits.shuffled(self.report.read, counts or default_split(self.report.read), seed)
        self.writer.split("default", parts)
        self.report.split = {name: len(indices) for name, indices in parts.items()}
        return self.report


def default_split(size: int) -> tuple[int, int, int]:
    """At most 50 structures to test on and 40 to validate on, a twelfth of a small set each."""
    test, valid = min(50, size // 12 + (size > 2)), min(40, size // 12 + (size > 1))
    return size - test - valid, valid, test


def valence(numbers: list[np.ndarray], electrons: np.ndarray) -> dict[int, float]:
    """Electrons that a neutral atom of each element brings, from structures' counts.

    Least squares of ``electrons = sum of valences``, rounded; elements for which no whole number
    fits (charged or all too few structures) are left out.
    """
    elements = np.unique(np.concatenate(numbers))
    table = np.array([[(row == element).sum() for element in elements] for row in numbers], float)
    if np.linalg.matrix_rank(table) < len(elements):
        return {}  # every structure has the same composition, say: nothing to tell them apart by
    fitted = np.linalg.lstsq(table, electrons, rcond=None)[0]
    whole = np.round(fitted)
    misfit = np.abs(table @ whole - electrons) / np.maximum(electrons, 1.0)
    if np.median(misfit) > 0.03 or (whole < 1).any():
        return {}
    return {int(element): float(n) for element, n in np.stack([elements, whole], axis=1)}


def collect(
    paths: Iterable[Path],
    output: Path,
    counts: tuple[int, ...] | None = None,
    seed: int = 0,
    skip: bool = True,
    spin: bool = False,
    tick: Callable[[str, str | None], None] = lambda name, trouble: None,
) -> Report:
    """Write the density file `output` from every density in `paths`, one at a time.

    ``skip`` goes on after a file that is wrong (it is in the report); otherwise its error is
    raised and no file is written. ``tick`` hears of every structure and of its trouble, if any.
    """
    names = [str(path) for path in paths]
    with DensityWriter(
        output, source=printable(", ".join(Path(n).name for n in names)), spin=spin
    ) as writer:
        collector = Collector(writer)
        for name, opener in volumes(Path(n) for n in names):
            trouble = None
            try:
                collector.add(name, opener())
            except InputError as error:
                if not skip:
                    raise
                trouble = str(error)
                collector.report.failed.append(trouble)
            tick(name, trouble)
        return collector.finish(counts, seed)
