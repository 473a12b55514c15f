"""Loops in C++: built once, loaded by later processes, done without where there is no compiler."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from neupol_cli.models.kernels import compiler
from tests.compiler import needs_compiler

SOURCE = 'extern "C" REAL twice(REAL x) { return FACTOR * x; }\n'


@pytest.fixture(autouse=True)
def nothing_built_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("NEUPOL_KERNELS", raising=False)
    compiler._load.cache_clear()
    yield
    compiler._load.cache_clear()


def source(folder: Path, text: str = SOURCE) -> Path:
    path = folder / "twice.cpp"
    path.write_text(text)
    return path


def twice(library: ctypes.CDLL | None, x: float) -> float:
    assert library is not None
    library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
    return float(library.twice(x))


@needs_compiler
def test_built_for_the_sizes_that_are_asked_for(tmp_path: Path) -> None:
    path = source(tmp_path)
    two = compiler.library(path, {"REAL": "double", "FACTOR": 2})
    three = compiler.library(path, {"REAL": "double", "FACTOR": 3})
    assert (twice(two, 1.25), twice(three, 1.25)) == (2.5, 3.75)
    assert compiler.library(path, {"REAL": "double", "FACTOR": 2}) is two


@needs_compiler
def test_a_later_process_needs_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    compiler.library(path, {"REAL": "double", "FACTOR": 2})
    (kept,) = (tmp_path / "cache" / "neupol").iterdir()
    compiler._load.cache_clear()
    monkeypatch.setattr(compiler, "_build", None)
    assert twice(compiler.library(path, {"REAL": "double", "FACTOR": 2}), 4.0) == 8.0
    monkeypatch.undo()
    path.write_text(SOURCE.replace("x;", "x + 1;"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler._load.cache_clear()
    assert twice(compiler.library(path, {"REAL": "double", "FACTOR": 2}), 4.0) == 9.0
    assert len(list(kept.parent.iterdir())) == 2


@needs_compiler
def test_a_folder_that_cannot_be_written_to_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source(tmp_path)))  # a file
    assert twice(compiler.library(source(tmp_path), {"REAL": "double", "FACTOR": 2}), 4.0) == 8.0


@needs_compiler
def test_a_user_without_a_home_has_it_built_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert twice(compiler.library(source(tmp_path), {"REAL": "double", "FACTOR": 2}), 4.0) == 8.0


@needs_compiler
def test_a_full_disk_keeps_no_piece_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert twice(compiler.library(source(tmp_path), {"REAL": "double", "FACTOR": 2}), 4.0) == 8.0
    assert list((tmp_path / "cache" / "neupol").iterdir()) == []


@pytest.mark.parametrize("program", ["no-such-compiler", "false"])
def test_without_a_working_compiler_there_is_no_library(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", program)
    assert compiler.library(source(tmp_path), {"REAL": "double", "FACTOR": 2}) is None


@needs_compiler
def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    assert compiler.library(path, {"REAL": "double", "FACTOR": 2}) is not None
    (kept,) = (tmp_path / "cache" / "neupol").iterdir()
    damaged = tmp_path / "other" / "neupol" / kept.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(kept.read_bytes()[:1000])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    compiler._load.cache_clear()
    assert twice(compiler.library(path, {"REAL": "double", "FACTOR": 2}), 4.0) == 8.0


@needs_compiler
def test_a_file_that_does_not_compile_is_done_without_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert compiler.library(source(tmp_path, "not C++"), {}) is None
    assert "does not build" in caplog.text and "PyTorch computes the same, slower" in caplog.text


@needs_compiler
def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    assert compiler.library(source(tmp_path), {"REAL": "double", "FACTOR": 2}) is None
