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
from types import MappingProxyType
from typing import IO

import numpy as np
from ase import Atoms

from neupol_cli import provenance
from neupol_cli.datasets import splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, said, soundness, volumetric
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.files import reported
from neupol_cli.io.volumetric import Volume, guesses, plausible
from neupol_cli.io.volumetric.format import StreamReader
from neupol_cli.io.volumetric.h5 import channels, labels, volume_of
from neupol_cli.io.volumetric.text import open_text
from neupol_cli.text import printable

PACKED = (".gz", ".zz", ".lz4")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LIST = ".txt"  # names of files, one a line
Opener = Callable[[], Volume]


def volumes(paths: Iterable[Path], pbc: bool | None = None) -> Iterator[tuple[str, Opener]]:
    """Every density in files, folders, tars and density HDF5 files: its name, and how to read it.

    Each must be read, or left, before the next one is asked for (a tar is a stream). ``pbc``:
    whether those that do not say it are periodic.

    Raises:
        UsageError: a path that holds no density.
        InputError: a damaged tar.
    """
    for path in paths:
        any_density = False
        for item in _volumes_of(path, pbc):
            any_density = True
            yield item
        if not any_density:
            known = volumetric.names_of(volumetric.READABLE)
            raise UsageError(f"{path}: no density in it; a file of one must end in {known}")


def _volumes_of(path: Path, pbc: bool | None) -> Iterator[tuple[str, Opener]]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_dir():
        provenance.inputs(path)
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file() and (_stream_reader(child.name) or child.suffix == ".npy"):
                yield str(child), _file_opener(child, pbc)
    elif path.name.lower().endswith(TARS):
        yield from _members(path, pbc)
    elif path.suffix in (".h5", ".hdf5"):
        yield from _structures(path)
    elif path.suffix == LIST:
        for place in _listed(path):
            yield from _volumes_of(place, pbc)
    else:
        volumetric.format_of(_unpacked(path.name))  # Usage when the name says nothing
        yield str(path), _file_opener(path, pbc)


def _listed(path: Path) -> list[Path]:
    """The files that a list names, one a line and beside it; or ChargE3Net's, without .npy."""
    try:
        with reported(path):
            lines = path.read_text().splitlines()
    except ValueError as error:
        raise InputError(f"{path}: a list of files is text, one name a line") from error
    return [_named(path, line.strip()) for line in lines if line.strip()]


def _named(path: Path, name: str) -> Path:
    """One of the files of a list."""
    for place in (path.parent / name, path.parent / f"{name}.npy"):
        if place.exists() and place.suffix != LIST:
            return place
    raise InputError(f"{path}: names {name!r}, and there is no density of that name beside it")


def _unpacked(name: str) -> str:
    return name.removesuffix(Path(name).suffix) if name.endswith(PACKED) else name


def _stream_reader(name: str) -> StreamReader | None:
    """What reads a file of this name, None where it is no density that comes from a stream."""
    try:
        return volumetric.format_of(_unpacked(Path(name).name)).read_stream
    except UsageError:
        return None


def _file_opener(path: Path, pbc: bool | None) -> Opener:
    def read() -> Volume:
        if not path.name.endswith((".zz", ".lz4")):
            return volumetric.read(path, pbc)
        with open_text(path)[0] as stream:
            return _read_packed(stream, path.name, str(path), pbc)

    return read


def _members(path: Path, pbc: bool | None) -> Iterator[tuple[str, Opener]]:
    try:
        _check_end(path)
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and _stream_reader(member.name) is not None:
                    stream = archive.extractfile(member)
                    assert stream is not None  # isfile
                    yield member.name, _member_opener(stream, path, member.name, pbc)
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


def _member_opener(stream: IO[bytes], path: Path, name: str, pbc: bool | None) -> Opener:
    return lambda: _read_packed(stream, name, f"{path}({name})", pbc)


def _read_packed(stream: IO[bytes], name: str, label: str, pbc: bool | None) -> Volume:
    """The density in a stream that may be compressed; `label` is for messages."""
    unpack = {".gz": _gunzip, ".zz": _inflate, ".lz4": _unlz4}.get(Path(name).suffix)
    try:
        content = stream.read()
    except (tarfile.TarError, EOFError, zlib.error) as trouble:
        raise InputError(f"{label}: the tar is damaged or cut short ({trouble})") from trouble
    text = content if unpack is None else unpack(content, label)
    read = _stream_reader(name)
    assert read is not None  # only such names come here
    volume = read(io.BytesIO(text), label, len(text))
    return volumetric.format_of(_unpacked(Path(name).name)).as_told(volume, pbc, label)


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
    dataset = hdf5.read(path)
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
    guessed: dict[str, list[str]] = field(default_factory=dict)  # periodicity -> names
    units: dict[str, list[str]] = field(default_factory=dict)  # what was taken, and why -> names
    sum_errors: list[float] = field(default_factory=list)  # |sum - electrons| / electrons
    valence: dict[int, float] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)


class Collector:
    """Puts volumes into a density file, one at a time, and keeps what the file must say of them."""

    def __init__(self, writer: DensityWriter, accept: bool = False) -> None:
        self.writer = writer
        self.accept = accept  # whatever speaks against a density
        self.report = Report()
        self.electrons: list[float] = []
        self.notes: list[Mapping[str, object]] = []
        self.frames: list[Atoms] = []
        self.identities: set[int] = set()
        self.places: list[int] = []  # of those that were added, among all that came
        self.seen = 0

    def add(self, name: str, volume: Volume, identity: int | None = None) -> None:
        """Append one density; InputError for a structure that is refused everywhere, and where the
        electrons are not those that it claims."""
        soundness.check(volume.atoms, name)
        electrons = self._plausible(name, volume)
        values = channels(volume, self.writer.spin)
        identity = self._identity(name) if identity is None else identity
        grid = volume.grid
        self.writer.add(said.named(name, volume.atoms), values, grid.origin, grid.step, identity)
        self.identities.add(identity)
        self.frames.append(volume.atoms)
        self.electrons.append(electrons)
        self.notes.append(volume.notes | {"electrons": electrons})
        self.report.read += 1
        self._note_guess(name, volume)

    def _plausible(self, name: str, volume: Volume) -> float:
        """Electrons as stated by the file, or else the sum over the grid."""
        electrons = volume.electrons
        stated = volume.notes.get("electrons")
        if not self.accept:
            self._check(name, volume)
        if stated is not None:
            self.report.sum_errors.append(abs(electrons - stated) / max(abs(stated), 1e-12))
            return float(stated)
        if abs(electrons - round(electrons)) > 0.05:
            self.report.odd.append(f"{name}: {electrons:.3f} electrons, not a whole number")
        return electrons

    def _check(self, name: str, volume: Volume) -> None:
        electrons, stated = volume.electrons, volume.notes.get("electrons")
        if stated is not None and not abs(electrons - stated) <= 0.25 * abs(stated):
            raise InputError(
                f"{name}: its values sum to {electrons:.3f} electrons, it says {stated:g}"
            )
        reason = plausible.reason_against(volume)
        if reason is not None:
            raise InputError(f"{name}: is no electron density: {reason}; --accept takes it")

    def _note_guess(self, name: str, volume: Volume) -> None:
        """Remember what a file does not say and had to be told from it."""
        if guesses.PERIODICITY in volume.notes:
            kind = "periodic" if volume.atoms.pbc.any() else "molecules"
            self.report.guessed.setdefault(kind, []).append(name)
        if guesses.UNIT in volume.notes:
            self.report.units.setdefault(str(volume.notes[guesses.UNIT]), []).append(name)

    def _identity(self, name: str) -> int:
        """The last number in the name, if no other structure has it; else the count."""
        digits = re.findall(r"\d+", Path(_unpacked(Path(name).name)).stem)
        identity = int(digits[-1]) if digits and len(digits[-1]) < 18 else self.report.read
        while identity in self.identities:
            identity = max(self.identities) + 1
        return identity

    def finish(
        self,
        counts: splits.Wanted | None,
        seed: int,
        known: dict[int, float] | None = None,
        references: Mapping[str, dict[int, float]] = MappingProxyType({}),
    ) -> Report:
        """Store labels, valences (as `known`, or else found from the counts) and the split;
        ``references`` are what free atoms have of other labels."""
        if not self.report.read:
            count = len(self.report.failed)
            raise InputError(f"{self.writer.path}: none of {count} densities could be used")
        targets = hdf5.states(self.frames) | labels(self.notes)
        self.report.valence = known or valence(
            [atoms.numbers for atoms in self.frames], np.array(self.electrons)
        )
        self.writer.label(targets, {"electrons": self.report.valence, **references})
        if isinstance(counts, dict):
            parts = splits.placed(counts, self.places, self.seen)
        else:
            size = self.report.read
            parts = splits.shuffled(size, counts or default_split(size), seed)
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


@dataclass(frozen=True)
class Choices:
    """What the user says of the files.

    Attributes:
        spin: store up minus down as well; every file must have it.
        pbc: whether cubes are periodic, where somebody knows.
        accept: take values for densities whatever speaks against it.
    """

    spin: bool = False
    pbc: bool | None = None
    accept: bool = False


def collect(
    paths: Iterable[Path],
    output: Path,
    counts: splits.Wanted | None = None,
    seed: int = 0,
    skip: bool = True,
    choices: Choices = Choices(),
    tick: Callable[[str, str | None], None] = lambda name, trouble: None,
) -> Report:
    """Write the density file `output` from every density in `paths`, one at a time.

    ``skip`` goes on after a file that is wrong (it is in the report); otherwise its error is
    raised and no file is written. ``tick`` hears of every structure and of its trouble, if any.
    """
    names = [str(path) for path in paths]
    source = printable(", ".join(Path(n).name for n in names))
    with DensityWriter(output, source=source, spin=choices.spin) as writer:
        collector = Collector(writer, choices.accept)
        for name, opener in volumes((Path(n) for n in names), choices.pbc):
            trouble = None
            try:
                collector.add(name, _with_spin(name, opener(), choices.spin))
                collector.places.append(collector.seen)
            except InputError as error:
                if not skip:
                    raise
                trouble = str(error)
                collector.report.failed.append(trouble)
            collector.seen += 1
            tick(name, trouble)
        return collector.finish(counts, seed)


def _with_spin(name: str, volume: Volume, needed: bool) -> Volume:
    """The volume; a spin density that is not known is not zero."""
    if needed and volume.spin is None:
        raise InputError(f"{name}: holds no spin density for --spin to store")
    return volume
