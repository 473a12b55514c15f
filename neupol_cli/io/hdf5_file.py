"""The parts of an HDF5 file: plain arrays in place, each with its SHA-256, nothing that points
elsewhere.

A file is opened with ``opened``, which refuses whatever could make a reader follow a link, touch
another file or allocate what is not there, and which turns every complaint of the HDF5 library
into InputError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import InputError, NeupolError, StorageError
from neupol_cli.validation import other_format

if TYPE_CHECKING:
    import h5py
    from _typeshed import ReadableBuffer, WriteableBuffer

FORMAT = "neupol"
VERSION = 1
# Object headers of this version carry checksums of their own, so that damage there is seen too.
LIBVER = ("v110", "v110")
OBJECTS = 10_000  # groups and arrays a file may have; ours have tens
EXPANSION = 1100  # deflate cannot do better than 1032 to 1


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An inspected file, open for reading; InputError if it is missing, damaged or not ours."""
    file = open_file(path)
    try:
        with readable(path):
            yield file
    finally:
        file.close()


def open_file(path: str | Path) -> h5py.File:
    """As ``opened``, for a reader that keeps the file open; the caller closes it."""
    import h5py

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    with readable(path):
        # Without HDF5's own locks: a reader on a read-only or network disk needs none.
        file = h5py.File(path, "r", locking=False)
    try:
        with readable(path):
            _inspect(file, path)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what h5py raises about a damaged file into InputError."""
    try:
        yield
    except NeupolError:
        raise
    except PermissionError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except Exception as error:  # whatever HDF5 makes of damage: any built-in kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable HDF5 file of neupol ({reason})") from error


def _inspect(file: h5py.File, path: str | Path) -> None:
    import h5py

    if file.attrs.get("format") != FORMAT:
        raise InputError(f"{path}: HDF5, but not written by neupol; convert it with `neupol data`")
    if problem := other_format(int(file.attrs["version"]), VERSION):
        raise InputError(f"{path}: {problem}")
    size = Path(path).stat().st_size
    for count, (name, item) in enumerate(_walk(file, "", 0)):
        if count > OBJECTS:
            raise InputError(f"{path}: more than {OBJECTS} objects in one file")
        if isinstance(item, h5py.Dataset):
            _inspect_array(item, name, size, path)


def _walk(
    group: h5py.Group, prefix: str, depth: int
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    import h5py

    for name in group:
        where = f"{prefix}/{name}"
        if group.get(name, getclass=True, getlink=True) is not h5py.HardLink or depth > 4:
            raise InputError(
                f"{group.file.filename}: {where} is a link; only plain arrays are read"
            )
        item = group[name]
        yield where, item
        if isinstance(item, h5py.Group):
            yield from _walk(item, where, depth + 1)


def _inspect_array(item: h5py.Dataset, name: str, size: int, path: str | Path) -> None:
    if item.external is not None or item.is_virtual:
        raise InputError(f"{path}: {name} keeps its values in another file; refused")
    if item.dtype.kind not in "iufb":
        raise InputError(f"{path}: {name} does not hold plain numbers")
    stored = item.id.get_storage_size()
    grid = name == "/density/values"  # the one array that is stored compressed
    bound = stored * EXPANSION if grid else stored
    if stored > size or item.nbytes > bound:
        raise InputError(f"{path}: {name} declares {item.nbytes} bytes that the file does not hold")


class NewFile:
    """A file to be written: ``with NewFile(partial) as new: put(new.file, ...)``.

    HDF5 cannot close a file whose disk is full, and crashes at exit when it is left open. So it
    writes through a file object of ours, which keeps the first failure to itself until HDF5 is
    done, and then raises it (OSError).
    """

    def __init__(self, partial: Path) -> None:
        self._partial = partial

    def __enter__(self) -> Self:
        import h5py

        self._sink = _Sink(self._partial.open("w+b", buffering=0))
        self.file = h5py.File(self._sink, "w", libver=LIBVER)
        return self

    def check(self) -> None:
        """Raise what went wrong so far; for writers that have much more to come."""
        if self._sink.failure is not None:
            raise self._sink.failure

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.file.close()
        except (OSError, RuntimeError):
            if self._sink.failure is None:
                raise
        finally:
            self._sink.raw.close()
        # A failed write may have made HDF5 complain of something else since: this is the cause.
        if kind is None or not issubclass(kind, NeupolError):
            self.check()


class _Sink(RawIOBase):
    """What h5py needs of a file; after a failed write, further ones are lost without a word."""

    def __init__(self, raw: FileIO) -> None:
        self.raw = raw
        self.failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data)
        size = rest.nbytes
        try:
            while len(rest) and self.failure is None:
                rest = rest[self.raw.write(rest) or 0 :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        return self.raw.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()


def put(group: h5py.Group, name: str, values: np.ndarray, **labels: str) -> None:
    """Store one array contiguously with its labels (``unit``, ``per``) and its SHA-256."""
    values = np.ascontiguousarray(values)
    item = group.create_dataset(name, data=values)
    for key, text in labels.items():
        item.attrs[key] = text
    item.attrs["sha256"] = digest(item.name, values, labels)


def get(file: h5py.File, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Read one array, check its SHA-256 and its shape (None: any length), and cast it."""
    item = file.get(name)
    if item is None:
        raise InputError(f"{file.filename}: has no {name}")
    if len(item.shape) != len(shape) or any(
        want is not None and want != has for want, has in zip(shape, item.shape, strict=True)
    ):
        raise InputError(f"{file.filename}: {name} has shape {item.shape}, not {shape}")
    values = item[()]
    if digest(name, values, labels(item)) != item.attrs.get("sha256"):
        raise InputError(f"{file.filename}: {name} is damaged (SHA-256); make the file again")
    return np.asarray(values, dtype=dtype)


def labels(item: h5py.Dataset) -> dict[str, str]:
    """The text that belongs to an array, without its checksum."""
    return {key: str(value) for key, value in item.attrs.items() if key != "sha256"}


def digest(name: str, values: np.ndarray, labels: dict[str, str]) -> str:
    """SHA-256 over name, type, shape, labels and bytes of an array."""
    head = json.dumps([name, values.dtype.str, list(values.shape), sorted(labels.items())])
    state = hashlib.sha256(head.encode())
    state.update(np.ascontiguousarray(values).data)
    return state.hexdigest()


def close_checksum(file: h5py.File, kind: str, header: dict[str, str]) -> None:
    """Say what the file is, and close the chain: one SHA-256 over header and arrays' checksums."""
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["kind"] = kind
    for key, text in header.items():
        file.attrs[key] = text
    if origin := provenance.text():
        file.attrs[provenance.KEY] = origin
    file.attrs["sha256"] = _checksum(file)


def verify_checksum(file: h5py.File) -> None:
    """Compare the file with its checksum.

    Raises:
        InputError: an array or a word of the header was changed, added or removed.
    """
    if file.attrs.get("sha256") != _checksum(file):
        raise InputError(f"{file.filename}: is damaged (SHA-256 of the header); make it again")


def _checksum(file: h5py.File) -> str:
    import h5py

    header = sorted((key, str(text)) for key, text in file.attrs.items() if key != "sha256")
    arrays = [
        (name, str(item.attrs.get("sha256")))
        for name, item in _walk(file, "", 0)
        if isinstance(item, h5py.Dataset)
    ]
    return hashlib.sha256(json.dumps([header, arrays]).encode()).hexdigest()
