"""Writing files so that nobody ever meets half of one.

A file is written to ``NAME.partial`` beside its target, flushed to the disk and renamed: at every
moment the target is either the old file or the new one. Writers exclude each other by
``NAME.lock``, which names host and process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from neupol_cli import provenance, signals
from neupol_cli.errors import StorageError, TemporaryError, UsageError

_elsewhere: list[_Elsewhere] = []  # of this process, while a command is run again


class _Elsewhere:
    """A folder that stands in for all others; ``moved`` says where each file went in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moved: dict[Path, Path] = {}

    def placed(self, path: Path) -> Path:
        if path.is_relative_to(self.folder):
            return path
        if path not in self.moved:
            place = self.folder / str(len(self.moved))
            place.mkdir()
            self.moved[path] = place / path.name
        return self.moved[path]


@contextmanager
def elsewhere(folder: Path) -> Iterator[Mapping[Path, Path]]:
    """What is written meanwhile goes into a folder, whatever its name says.

    Args:
        folder: an empty one.

    Yields:
        Absolute path that was asked for -> where it is.
    """
    _elsewhere.append(_Elsewhere(folder.absolute()))
    try:
        yield _elsewhere[-1].moved
    finally:
        _elsewhere.pop()


def placed(path: str | Path) -> Path:
    """Where a file or folder of that name is to be written: there, or `elsewhere`."""
    return _elsewhere[-1].placed(Path(path).absolute()) if _elsewhere else Path(path)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield the path to write to; when the block ends well, it becomes ``path`` at once.

    Takes the output lock for the duration. After any error the old file is as it was and no
    ``.partial`` is left.

    Raises:
        UsageError: the folder is missing or the target is no plain file.
        TemporaryError: another process writes it.
        StorageError: the disk is full or refuses.
    """
    target = checked_target(path)
    partial = target.with_name(target.name + ".partial")
    with locked(target), reported(target):
        try:
            yield partial
            _sync(partial)
            os.replace(partial, target)
            _sync(target.parent)
        finally:
            with signals.Deferred(), suppress(FileNotFoundError):
                partial.unlink()


def checked_target(path: str | Path) -> Path:
    """The path with links resolved, or UsageError if nothing can be written there."""
    target = placed(path)
    # A link stays a link: the file it points to is replaced.
    target = target.resolve() if target.is_symlink() else target.absolute()
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist; make it first")
    if target.exists() and not target.is_file():
        raise UsageError(f"{path}: is not a plain file; name a file to write")
    return target


@contextmanager
def reported(path: str | Path) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into StorageError."""
    try:
        yield
    except BrokenPipeError:  # of no file: whoever read our standard streams has left
        raise
    except OSError as error:
        # What failed may be another file, one that is read while this one is written.
        raise StorageError(f"{error.filename or path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC or "No space left" in str(error):
        return "no space left on the disk; the earlier file, if any, is unchanged"
    return f"{error.strerror or error}; the earlier file, if any, is unchanged"


def _sync(path: Path) -> None:
    """Put a file's content, or a folder's names, onto the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold ``PATH.lock`` (text ``host pid``), or raise TemporaryError at once if somebody does.

    The kernel's flock settles a race between starters and dies with its holder; the text covers
    file systems on which flock does not reach other hosts, or does not work at all. A lock that
    nobody on this host holds any more is taken over.
    """
    lock = Path(f"{path}.lock")
    with ExitStack() as stack:
        with signals.Deferred(), reported(lock):
            handle = _take(lock)
            stack.callback(_let_go, handle, lock)
        yield


def _let_go(handle: int, lock: Path) -> None:
    with signals.Deferred():
        with suppress(FileNotFoundError):
            lock.unlink()
        os.close(handle)


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Hold the kernel's lock on a folder, which is made if it is missing.

    It dies with its process and leaves nothing behind; a folder that was made and stayed empty goes
    again. On a file system that does not lock folders, ``PATH.lock`` stands in.

    Raises:
        TemporaryError: somebody else holds it.
        UsageError: it is no folder.
    """
    with ExitStack() as stack:
        with signals.Deferred(), reported(path):
            made, handle = _opened_folder(path)
            stack.callback(_leave, handle, path if made else None)
        if not _flock(handle, path):
            stack.enter_context(locked(path))
        yield


def _leave(handle: int, made: Path | None) -> None:
    with signals.Deferred():
        os.close(handle)
        if made:
            with suppress(OSError):
                made.rmdir()


def _opened_folder(path: Path) -> tuple[bool, int]:
    """Whether a folder was made, and a handle of it."""
    made = not path.exists()
    if not made and not path.is_dir():
        raise UsageError(f"{path}: is not a folder; name another one")
    path.mkdir(exist_ok=True)
    return made, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _holder(handle: int) -> bytes:
    """``host pid`` of the process that holds the kernel's lock on a file; empty if unknown."""
    place = os.fstat(handle)
    device = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            if device in (words := line.split()) and words[1] == "FLOCK":
                return f"{socket.gethostname()} {words[4]}".encode()
    return b""


def _take(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            held = _flock(handle, lock)
            if not _same_file(handle, lock):  # its holder removed it between open and flock
                os.close(handle)
                continue
            _refuse_others(os.pread(handle, 4096, 0), lock, held)
            _sign(handle, lock)
            return handle
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise


def _sign(handle: int, lock: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    except OSError:
        lock.unlink()
        raise


def _flock(handle: int, lock: Path) -> bool:
    """Whether the kernel's lock is ours now; False where this file system has none.

    Errors: TemporaryError when somebody else holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _busy(_text(handle), lock) from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
        return False  # the text alone decides
    return True


def _text(handle: int) -> bytes:
    """What a lock says of its holder; of a folder, what the kernel says."""
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        return _holder(handle)
    return os.pread(handle, 4096, 0)


def _same_file(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False


def _refuse_others(text: bytes, lock: Path, held: bool) -> None:
    """Raise TemporaryError where the lock's text names a writer that may still be at work.

    On this host, ``held`` (the kernel's lock is ours) proves that there is none. The process
    number proves nothing then: containers start again under the same name with the same small
    numbers. It is all there is to go by where flock does not work.
    """
    host, _, pid = text.decode(errors="replace").strip().partition(" ")
    if not host or not pid.isdigit():
        return  # its writer died between creating and naming it
    if host != socket.gethostname():
        raise _busy(text, lock)
    if not held and int(pid) != os.getpid() and _lives(int(pid)):
        raise _busy(text, lock)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's process
    return True


def _busy(text: bytes, lock: Path) -> TemporaryError:
    host, _, pid = text.decode(errors="replace").strip().partition(" ")
    holder = f"process {pid} on {host}" if pid else "another process"
    advice = f", or remove {lock.name} if it is gone" if lock.suffix == ".lock" else ""
    return TemporaryError(
        f"{str(lock).removesuffix('.lock')}: {holder} is writing it; "
        f"try again when it is done{advice}"
    )


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """A JSON file that says where it comes from, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps({**content, **provenance.item()}, indent=1) + "\n")
