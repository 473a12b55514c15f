"""The record of a command: what is noted, and how it fits where there is little room."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from neupol_cli import __version__, provenance
from neupol_cli.io import files, structures

HEAD = f"neupol {__version__}: "


def test_without_a_command_nothing_is_said(tmp_path: Path) -> None:
    provenance.inputs(__file__)
    provenance.model("it", tmp_path / "nothing")  # is not read, either
    assert (provenance.record(), provenance.item(), provenance.text()) == (None, {}, "")
    assert (provenance.marked(), provenance.commented()) == ([], {})
    assert provenance.stamped({"a": 1}) == {"a": 1}
    assert provenance.title("water") == provenance.with_sums("water") == "water"
    assert list(provenance.in_column([["a"], ["1"]])) == [["a"], ["1"]]


def test_names_are_those_that_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.xyz").write_text("1\n\nH 0 0 0\n")
    digest = hashlib.sha256(b"1\n\nH 0 0 0\n").hexdigest()
    with provenance.recording(["predict", "./a.xyz"]):
        provenance.inputs(Path("a.xyz").absolute(), "./a.xyz", "CCO", "missing", tmp_path)
        provenance.model("it", Path("a.xyz"))
        assert provenance.record() == {
            "neupol": __version__,
            "command": "neupol predict ./a.xyz",
            "models": {"it": digest},
            "inputs": {"./a.xyz": digest},
        }
        with provenance.recording(["other"]):
            assert provenance.item()["provenance"] == {
                "neupol": __version__, "command": "neupol other", "models": {}, "inputs": {},
            }  # fmt: skip
        assert json.loads(provenance.text())["models"] == {"it": digest}
    assert provenance.record() is None


def test_many_inputs_have_one_checksum(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{k:02d}") for k in range(provenance.MOST + 1)]
    sums = []
    for name in names:
        Path(name).write_text(name)
        sums.append(hashlib.sha256(name.encode()).hexdigest())
    with provenance.recording(["predict"]):
        provenance.inputs(*names[1:], names[0])
        found = provenance.record()
    assert found and found["inputs"] == {
        "51 files": hashlib.sha256("\n".join(sums).encode()).hexdigest()
    }


def test_a_pipe_has_a_checksum_when_it_has_ended() -> None:
    text = "1\n\nH 0 0 0\n" * 3
    with provenance.recording(["predict", "-"]):
        frames = structures.read(["-"], stdin=io.StringIO(text))
        next(frames)
        found = provenance.record()
        assert found and found["inputs"] == {"-": None}
        assert len(list(frames)) == 2
        found = provenance.record()
        assert found and found["inputs"] == {"-": hashlib.sha256(text.encode()).hexdigest()}
        first = provenance.stamped({"a": 1})
        assert first["provenance"] == {**found, "inputs": {"-": None}}
        assert provenance.stamped({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("words", "title", "expected"),
    [
        (["x"], "water by neupol", f"water by neupol {__version__}: x"),
        (["x" * 66], "water by neupol", HEAD + "x" * 66),
        (["x" * 67], "water by neupol", f"water by neupol {__version__}: " + "x" * 54 + "..."),
        (["a\nb", "é%"], "w", f"w {__version__}: 'a%0Ab' '%C3%A9%25'"),
    ],
)
def test_titles(words: list[str], title: str, expected: str) -> None:
    with provenance.recording(words):
        found = provenance.title(title)
    assert found == expected and len(found) <= 80


def test_sums_say_what_they_are_of_where_there_is_room() -> None:
    with provenance.recording(["x"]):
        assert provenance.with_sums("a") == "a, model -, input -"
        assert provenance.with_sums("a" * 63) == "a" * 63 + ", - -"


def test_every_character_comes_back() -> None:
    words = "".join(map(chr, range(1, 0x250))) + "\udcff"
    encoded = provenance.encoded(words)
    assert encoded.isascii() and encoded.isprintable() and not {'"', "\\"} & set(encoded)
    assert unquote(encoded, errors="surrogateescape") == words


def test_files_go_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "a").write_text("old")
    with files.elsewhere(tmp_path / "scratch") as moved:
        for name in ("a", "missing/a"):
            with files.atomic(tmp_path / name) as partial:
                partial.write_text(name)
        assert files.placed(moved[tmp_path / "a"]) == moved[tmp_path / "a"]
    assert [place.read_text() for place in moved.values()] == ["a", "missing/a"]
    assert (tmp_path / "a").read_text() == "old" and not (tmp_path / "missing").exists()
    assert files.placed("a") == Path("a")
