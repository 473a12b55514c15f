"""Files that may be compressed, told by their first bytes and not by their name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO, cast

ENDINGS = (".gz", ".bz2", ".xz")
OPENERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda stream: cast(BinaryIO, gzip.GzipFile(fileobj=stream)),
    b"BZh": lambda stream: cast(BinaryIO, bz2.BZ2File(stream)),
    b"\xfd7zXZ\0": lambda stream: cast(BinaryIO, lzma.LZMAFile(stream)),  # noqa: SIM115
}


def open_bytes(path: Path) -> BinaryIO:
    """The file's content, decompressed where it is compressed.

    Raises:
        OSError: it cannot be opened; damage shows when it is read, as OSError, EOFError or an
            error of zlib or lzma.
    """
    stream = path.open("rb")
    head = stream.read(6)
    stream.seek(0)
    for magic, opener in OPENERS.items():
        if head.startswith(magic):
            return opener(stream)
    return stream


def open_text(path: Path) -> TextIO:
    """The same as text: UTF-8, and bytes that are none of it as Latin-1."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors=LENIENT)


def plain_name(path: Path) -> str:
    """The file's name without the ending of a compression, in lower case."""
    name = path.name.lower()
    return name.removesuffix(Path(name).suffix) if name.endswith(ENDINGS) else name


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


LENIENT = "neupol-latin1"  # a way to treat errors, as `open` takes it
codecs.register_error(LENIENT, _as_latin1)
