"""Nothing that a file says commands a terminal, and names need not be text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neupol_cli import __version__, checkpoint, registry
from neupol_cli.errors import InputError
from neupol_cli.text import printable

WATER = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"
LATIN = os.fsdecode(b"caf\xe9.xyz")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b-Å ü 水", "a b-Å ü 水"),
        ("\x1b[2J\x07\r\n\t", r"\x1b[2J\x07\r\n\t"),
        ("\x9b31m", r"\x9b31m"),
        (LATIN, r"caf\xe9.xyz"),
        ("\ud800", r"\ud800"),
        ("a\u202eb", r"a\u202eb"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(InputError(f"x {text} y")).isprintable()


def test_line_ends_stay_where_they_are_meant() -> None:
    assert printable("a\n\x1b", keep="\n") == "a\n\\x1b"


BAD = "3\n\nO 0 0 0\nH\x1b[31m 0 0.76 0.59\nH 0 -0.76 0.59\n"


def test_messages_and_headings_are_escaped(neupol, tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[2Jb.xyz"
    name.write_text(BAD)
    refused = neupol("predict", name)
    assert refused.returncode == 65 and "\x1b" not in refused.stderr
    assert r"a\x1b[2Jb.xyz" in refused.stderr
    name.write_text(WATER)
    done = neupol("predict", name)
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert r"a\x1b[2Jb.xyz" in done.stdout


def test_a_checkpoint_says_nothing_to_the_terminal(neupol, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    settings = {"targets": ("U0",), "units": ("eV",), "hidden": 8, "layers": 2}
    meta = {
        "targets": {"U0": "eV"},
        "text": "a\x1b[2Jb",
        "test": {"\x1b]0;x": {"value": 1.0, "unit": "eV"}},
    }
    checkpoint.save(path, "egnn", registry.build("egnn", settings), meta)
    done = neupol("models", path)
    assert done.returncode == 0, done.stderr
    assert r"text: a\x1b[2Jb" in done.stdout and "\x1b" not in done.stdout
    assert "hidden = 8" in done.stdout and "U0 = eV" in done.stdout
    assert "\x1b" not in neupol("models", path, "--json").stdout


@pytest.mark.parametrize("output", ["o.csv", "o.extxyz", "o.h5", os.fsdecode(b"o\xe9.csv")])
def test_names_in_no_encoding_are_predicted(neupol, tmp_path: Path, output: str) -> None:
    (tmp_path / LATIN).write_text(WATER)
    done = neupol("predict", LATIN, "-o", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if output.endswith(".csv"):
        assert r"caf\xe9.xyz,H2O" in (tmp_path / output).read_text()


def test_names_in_no_encoding_have_densities(neupol, tmp_path: Path) -> None:
    (tmp_path / LATIN).write_text(WATER)
    cube = os.fsdecode(b"\xe9.cube")
    done = neupol("density", LATIN, "--spacing", "0.6", "-o", cube, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / cube).read_text().startswith(f"neupol {__version__}: density 'caf%E9.xyz' ")
    done = neupol("data", "density", cube, "-o", "d.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert r"\xe9.cube" in neupol("data", "info", tmp_path / "d.h5").stdout


def test_a_file_that_is_called_xyz(neupol, tmp_path: Path) -> None:
    (tmp_path / ".xyz").write_text(WATER)
    done = neupol("predict", ".xyz", cwd=tmp_path)
    assert done.returncode == 0 and "H2O" in done.stdout, done.stderr
