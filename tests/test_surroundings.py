"""Hostile surroundings: no home, closed or full streams, full disks, few handles, long pipes,
kills, a cache of compiled libraries that is damaged or not ours."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neupol_cli.io import volumetric
from neupol_cli.models.kernels import compiler
from neupol_cli.prediction.committee import CHUNK
from tests.compiler import needs_compiler
from tests.warm import Process, neupol, python, shell, wait_for

WATER = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"
FRESH = f"{sys.executable} -m neupol_cli"  # libraries look for a home while they are imported


def test_without_a_home(tmp_path: Path) -> None:
    absent = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"))
    done = shell(f"{FRESH} predict -", input=WATER, cwd=tmp_path, **absent)
    assert done.returncode == 0 and "H2O" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "streams", "code", "message"),
    [
        (FRESH, ">&-", 74, "neupol: standard output is closed\n"),
        ("neupol", ">/dev/full", 74, "neupol: No space left on device\n"),
        ("neupol", "2>&-", 0, ""),
        ("neupol", "<&-", 65, "neupol: "),
    ],
)
def test_closed_and_full_streams(program: str, streams: str, code: int, message: str) -> None:
    done = shell(f"{program} predict - {streams}", input=WATER)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr  # beside a doubt


# What goes on printing while a file is being written, and what prints at its end.
PRINTING = [
    ("density", "-", "--grid", "8,8,8", "-o", "out.h5"),
    ("charges", "-", "--spacing", "0.5", "-o", "out.extxyz"),
    ("potential", "-", "--spacing", "0.5", "-o", "out.npz"),
    ("relax", "-", "--steps", "1", "-o", "out.extxyz"),
    ("md", "-", "--steps", "1", "-o", "run"),
    ("trajectory", "-", "-o", "out.h5"),
    ("models",),
]


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: words[0])
def test_a_reader_that_has_left_is_told_from_a_disk(words: tuple[str, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = Process(
        "-m", "neupol_cli", *words,
        streams=(subprocess.PIPE, writing, subprocess.PIPE), cwd=tmp_path,
    )  # fmt: skip
    os.close(writing)
    _, told = process.communicate(WATER)
    assert process.returncode == 141, told
    assert "Broken pipe" not in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("words", "code"), [("predict - -m nonsense", 65), ("predict", 2), ("predict - -m qm9", 141)]
)
def test_messages_that_nobody_reads_leave_the_exit_code(words: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "neupol_cli", *words.split()]
    done = subprocess.run(line, input=WATER, text=True, stderr=writing, stdout=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == code


ANSWERS = ["out.csv", "out.extxyz", "out.xyz", "out.h5", "--json"]
DENSITIES = ["out.cube", "out.cube.gz", "out.xsf", "out.npz", "out.h5"]
SMALL = ("--grid", "8,8,8", "--accept")
OLD = "an earlier file\n"


def named(name: str) -> list[str]:
    return ["-o", "out.json", name] if name == "--json" else ["-o", name]


def old_file(folder: Path, name: str) -> Path:
    path = folder / named(name)[1]
    path.write_text(OLD)
    return path


@pytest.mark.parametrize("words", [
    *(["predict", "-", *named(name)] for name in ANSWERS),
    *(["density", "-", *SMALL, *named(name)] for name in DENSITIES),
], ids=" ".join)  # fmt: skip
def test_a_full_disk_is_said_and_leaves_the_old_file(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / words[words.index("-o") + 1]
    path.write_text(OLD)
    no_cache = {"NEUPOL_KERNELS": "0"}  # which would have to be written
    done = neupol(*words, input=WATER, limits={"FSIZE": 64}, env=no_cache, cwd=tmp_path)
    assert done.returncode == 74, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("neupol: ") and path.name in last and "Traceback" not in done.stderr
    assert path.read_text() == OLD and os.listdir(tmp_path) == [path.name]


def test_few_file_handles_are_enough(tmp_path: Path) -> None:
    names = [f"{k}.{ending}" for k in range(50) for ending in ("xyz", "xyz.gz", "gen")]
    for name in names:
        (tmp_path / name).write_text(GEN if name.endswith("gen") else WATER)
    done = python("-c", FEW_HANDLES, "predict", *names, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 150


FEW_HANDLES = """
import resource
from neupol_cli.app import main
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
main()
"""
GEN = "3 C\nO H\n1 1 0 0 0\n2 2 0 0.76 0.59\n3 2 0 -0.76 0.59\n"


def test_a_long_pipe_is_answered_as_it_comes() -> None:
    """Answers are there while the pipe is open, and nothing of what was said is kept."""
    frames = 5000
    process = Process("-m", "neupol_cli", "predict", "-", "-m", "points-homo")
    process.stdin.write(WATER * 2 * CHUNK)
    process.stdin.flush()
    first = [process.stdout.readline() for _ in range(2)]
    assert first[1].startswith("-#0\t")
    out, err = process.communicate(WATER * (frames - 2 * CHUNK))
    rows = [*first, *out.splitlines(keepends=True)]
    assert process.returncode == 0 and len(rows) == frames + 1, err[-300:]
    assert len({row.split("\t", 1)[1] for row in rows[1:]}) == 1
    assert rows[-1].startswith(f"-#{frames - 1}\t")


def test_densities_of_a_pipe(tmp_path: Path) -> None:
    done = neupol("density", "-", "--grid", "4,4,4", "-o", "all.h5", input=WATER * 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(volumetric.entries(tmp_path / "all.h5"))) == 2


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_killed_run_left_is_cleaned_up_by_the_next(name: str, tmp_path: Path) -> None:
    path = old_file(tmp_path, name)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    Path(f"{path}.partial").write_text("half of something")
    Path(f"{path}.lock").write_text(f"{socket.gethostname()} {ended.pid}\n")
    done = neupol("predict", "-", *named(name), input=WATER, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == [path.name] and b"earlier" not in path.read_bytes()


def test_a_kill_leaves_the_old_file_and_the_next_run_nothing_else(tmp_path: Path) -> None:
    path = old_file(tmp_path, "--json")
    words = ["predict", "-", *named("--json")]
    process = Process("-m", "neupol_cli", *words, cwd=tmp_path)
    wait_for(Path(f"{path}.partial").exists, process)
    process.kill()
    process.wait()
    assert path.read_text() == OLD
    assert sorted(os.listdir(tmp_path)) == ["out.json", "out.json.lock", "out.json.partial"]
    done = neupol(*words, input=WATER, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["out.json"] and "H2O" in path.read_text()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Answers 42 by a library of the cache, as a process that has just started does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("NEUPOL_KERNELS", raising=False)
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" double answer() { return 42.0; }\n')

    def answer() -> float:
        compiler._load.cache_clear()
        compiler._is_private.cache_clear()
        loaded = compiler.library(source, {})
        assert loaded is not None
        loaded.answer.restype = ctypes.c_double
        return float(loaded.answer())

    return answer


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte": flipped,
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(4096)),
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a dead link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@needs_compiler
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_library_is_built_anew(
    how: str, library: Callable[[], float], tmp_path: Path
) -> None:
    assert library() == 42.0
    (kept,) = (tmp_path / "cache" / "neupol").iterdir()
    content = kept.read_bytes()
    other = tmp_path / "other"  # a library that is open must not change under a process
    shutil.copy(kept, other)
    kept.unlink()
    shutil.move(other, kept)
    DAMAGE[how](kept)
    assert library() == 42.0
    assert kept.read_bytes()[-32:] == compiler._digest(kept.read_bytes()[:-32])
    assert len(kept.read_bytes()) == len(content)


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_that_others_can_write_to_is_not_used(
    mode: int, library: Callable[[], float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever puts a library there would have it run in this process."""
    assert library() == 42.0
    folder = tmp_path / "cache" / "neupol"
    (kept,) = folder.iterdir()
    planted = tmp_path / "planted.cpp"
    planted.write_text('extern "C" double answer() { return 13.0; }\n')
    built = compiler._build(shutil.which("c++") or "", planted, (), tmp_path / "planted.so")
    assert built is not None
    content = built.read_bytes()
    kept.unlink()
    kept.write_bytes(content + compiler._digest(content))
    folder.chmod(mode)
    assert library() == 42.0
    assert "others can write to it" in caplog.text
    folder.chmod(0o700)


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_cache_of_somebody_else_is_not_used(
    library: Callable[[], float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache" / "neupol"
    folder.mkdir(mode=0o700, parents=True)
    os.chown(folder, 12345, -1)
    assert library() == 42.0
    assert "others can write to it" in caplog.text and not list(folder.iterdir())


def test_a_home_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = {"HOME": str(tmp_path / "file" / "home"), "XDG_CACHE_HOME": None}
    done = neupol("predict", "-", "-m", "points-homo", input=WATER, env=place, cwd=tmp_path)
    assert done.returncode == 0 and "H2O" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == ["file"]
