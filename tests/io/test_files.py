"""Output files: whole or not at all, one writer at a time, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neupol_cli.errors import StorageError, TemporaryError, UsageError
from neupol_cli.io import files


def test_file_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with files.atomic(target) as partial:
        assert partial == tmp_path / "out.partial"
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(error), files.atomic(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_failing_disk_is_an_io_failure(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(StorageError, match="no space left") as caught,
        files.atomic(tmp_path / "out"),
    ):
        full()
    assert caught.value.code == 74
    assert os.listdir(tmp_path) == []


def test_missing_folder_and_special_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"), files.atomic(tmp_path / "no" / "out"):
        pass
    for special in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="not a plain file"), files.atomic(special):
            pass


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with files.atomic(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_second_writer_is_told_at_once(tmp_path: Path) -> None:
    with files.locked(tmp_path / "out"):
        begin = time.monotonic()
        with (
            pytest.raises(TemporaryError, match=f"process {os.getpid()}"),
            files.locked(tmp_path / "out"),
        ):
            pass
        assert time.monotonic() - begin < 1.0
    assert os.listdir(tmp_path) == []


HOLD = """
import sys, time
from neupol_cli.io import files
with files.atomic(sys.argv[1]) as partial:
    partial.write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_writer_in_another_process_is_respected_until_it_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    process = _holder(target)
    try:
        with (
            pytest.raises(TemporaryError, match=f"process {process.pid}") as caught,
            files.atomic(target),
        ):
            pass
        assert caught.value.code == 75
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert target.read_text() == "old"
    with files.atomic(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def _ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_stale_lock_of_this_host_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "out.lock"
    for text in (f"{socket.gethostname()} {_ended_process()}\n", "", "rubbish"):
        lock.write_text(text)
        with files.locked(tmp_path / "out"):
            assert lock.read_text() == f"{socket.gethostname()} {os.getpid()}\n"
        assert not lock.exists()


def test_stale_lock_is_taken_over_whoever_has_its_number_now(tmp_path: Path) -> None:
    lock = tmp_path / "out.lock"
    for number in (os.getppid(), 1):  # both live, and neither holds the kernel's lock
        lock.write_text(f"{socket.gethostname()} {number}\n")
        with files.locked(tmp_path / "out"):
            assert lock.read_text() == f"{socket.gethostname()} {os.getpid()}\n"
        assert not lock.exists()


def _kept(lock: Path) -> bool:
    """Whether a lock is respected at once, and left as it is."""
    text, begin = lock.read_text(), time.monotonic()
    with (
        pytest.raises(TemporaryError, match="try again"),
        files.locked(str(lock).removesuffix(".lock")),
    ):
        pass
    return lock.read_text() == text and time.monotonic() - begin < 1.0


def test_lock_of_another_host_is_kept(tmp_path: Path) -> None:
    lock = tmp_path / "out.lock"
    lock.write_text("elsewhere 1\n")
    assert _kept(lock)


def test_without_flock_the_lock_of_a_living_process_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    lock = tmp_path / "out.lock"
    for text in (f"{socket.gethostname()} {os.getppid()}\n", "elsewhere 1\n"):
        lock.write_text(text)
        assert _kept(lock)
    lock.write_text(f"{socket.gethostname()} {_ended_process()}\n")
    with files.locked(tmp_path / "out"):
        assert lock.read_text() == f"{socket.gethostname()} {os.getpid()}\n"
    assert not lock.exists()


RACE = """
import sys, time
from neupol_cli.io import files
from neupol_cli.errors import TemporaryError
won = 0
for _ in range(300):
    try:
        with files.locked(sys.argv[1]):
            with open(sys.argv[2], "x"): pass    # fails if somebody else is inside
            import os; os.unlink(sys.argv[2])
            won += 1
    except TemporaryError:
        time.sleep(0.0005)
print(won)
"""


def test_lock_excludes_under_contention(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "out"), str(tmp_path / "inside")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert all(int(text) > 0 for text in outputs)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_locked_without_a_trace(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with files.locked_folder(run):
        assert run.is_dir() and os.listdir(tmp_path) == ["run"]
        with (
            pytest.raises(TemporaryError, match=f"process {os.getpid()} on "),
            files.locked_folder(run),
        ):
            pass
        assert os.listdir(run) == []
    assert os.listdir(tmp_path) == []  # nothing was put in
    with files.locked_folder(run):
        (run / "file").touch()
    assert os.listdir(run) == ["file"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"), files.locked_folder(tmp_path / "file"):
        pass


HOLD_FOLDER = """
import sys, time
from pathlib import Path
from neupol_cli.io import files
with files.locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", HOLD_FOLDER, str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        with pytest.raises(TemporaryError, match=f"process {process.pid} on "):
            files.locked_folder(run).__enter__()
    finally:
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) == ["run"]
    with files.locked_folder(run):
        pass


def test_without_locks_of_folders_a_file_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS says of a folder

    monkeypatch.setattr(fcntl, "flock", missing)
    with files.locked_folder(tmp_path / "run"):
        assert (tmp_path / "run.lock").exists()
    assert os.listdir(tmp_path) == []
