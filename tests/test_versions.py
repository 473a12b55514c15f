"""What a newer version wrote is refused in one clear line, whatever kind of file it is."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import h5py
import pytest

from neupol_cli import __version__, checkpoint
from tests.warm import ROOT, neupol

RUN = ROOT / "tests" / "data" / "run-0.1"
NEWER = "has format 2, this neupol reads 1; a newer neupol wrote it: update this one"
WATER = ROOT / "examples" / "water.xyz"


def refused(code: int, place: Path, *words: str | Path) -> None:
    done = neupol(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"neupol: {place}: {NEWER}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_a_newer_dataset(run: Path) -> None:
    with h5py.File(run / "ethanol.h5", "a") as file:
        file.attrs["version"] = 2
    refused(65, run / "ethanol.h5", "data", "info", run / "ethanol.h5")
    refused(65, run / "ethanol.h5", "fit", "egnn", run / "ethanol.h5", "-o", run / "new")


@pytest.mark.parametrize(("name", "kind"), [("best", "weights"), ("state", "state")])
def test_a_newer_checkpoint_or_state(
    name: str, kind: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / f"{name}.safetensors"
    header, tensors = checkpoint.read(path, kind)
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 2)
        plain = {k: v for k, v in header.items() if k not in ("format", "kind", "sha256")}
        checkpoint.write(path, kind, plain, tensors)
    if name == "best":
        refused(78, path, "predict", WATER, "-m", run)
        return
    done = neupol("fit", "egnn", run / "ethanol.h5", "--resume", "-o", run, "--steps", "20")
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1] == f"neupol: {path}: {NEWER}"


def test_a_newer_run(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert "format" not in config  # that of 0.1, which is read: tests of earlier runs
    (run / "config.json").write_text(json.dumps(config | {"format": 2}))
    refused(65, run / "config.json", "fit", "--resume", "-o", run)
    refused(65, run / "config.json", "runs", run)


def test_a_newer_dynamics(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"format": 2, "thermostat": "new"}')
    refused(78, tmp_path / "settings.json", "md", "--resume", "-o", tmp_path)


def test_new_runs_say_their_format(run: Path) -> None:
    words = ("--steps", "1", "--set", "hidden=4", "--set", "layers=1")
    done = neupol("fit", "egnn", run / "ethanol.h5", "-o", run.parent / "new", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((run.parent / "new" / "config.json").read_text())["format"] == 1


def test_interpreters_are_said_everywhere_alike() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if ":: Python :: 3." in c]
    assert named == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={named[0]}"
    assert settings["tool"]["mypy"]["python_version"] == named[0]
    assert settings["tool"]["ruff"]["target-version"] == f"py{named[0].replace('.', '')}"
    assert f"Python {named[0]} to {named[-1]}" in (ROOT / "docs/versions.md").read_text()


# Of the schema 1.2.0: what must be there, and of what type the fields are that are.
TEXTS = {"cff-version", "message", "title", "abstract", "type", "version", "license"}


def citation() -> dict[str, str | list[str]]:
    """CITATION.cff: plain texts, and lists of plain texts or of one name each; no more of YAML."""
    found: dict[str, str | list[str]] = {}
    last = ""
    for line in (ROOT / "CITATION.cff").read_text().splitlines():
        if item := re.fullmatch(r"  - (?:name: )?([^:#'\"]+)", line):
            listed = found[last]
            assert isinstance(listed, list)
            listed.append(item[1])
        else:
            last, value = re.fullmatch(r"([a-z-]+):(?: ([^:#'\"]+))?", line).groups()  # type: ignore[union-attr]
            assert last not in found
            found[last] = value or []
    return found


def test_the_citation_is_valid() -> None:
    found = citation()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found.keys() == TEXTS | {"authors", "keywords"}
    assert all(type(found[name]) is str and found[name] for name in TEXTS)
    assert (found["cff-version"], found["type"]) == ("1.2.0", "software")
    assert (found["title"], found["version"]) == (project["name"], __version__)
    assert (found["license"], found["keywords"]) == (project["license"], project["keywords"])
    assert found["authors"] == [author["name"] for author in project["authors"]]
