"""Completion as shells ask for it: scripts that they accept, and names that they offer."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from neupol_cli import completion, registry
from neupol_cli.networks import ENTRIES
from neupol_cli.training.presets import presets
from tests.contracts.test_config import COMMANDS
from tests.warm import ROOT

# Each shell with a function that says what it would offer for a command line.
ASK = {
    "bash": """
        source {script}
        COMP_WORDS=({words}) COMP_CWORD=$(({count} - 1))
        _neupol_completion neupol
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        compdef() {{ }}
        _arguments() {{ print -r -- "$1" }}  # *: :(("qm9":"bundled: mu" ...))
        source {script}
        words=({words}) CURRENT={count}
        _neupol_completion
    """,
    "fish": "source {script}; complete -C {line}",
}
QUIET = {"bash": ("--norc",), "zsh": ("-f",), "fish": ("--no-config",)}


@pytest.fixture(params=ASK)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    return str(request.param)


@pytest.fixture
def script(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shell's script, and a ``neupol`` that it finds."""
    program = tmp_path / "bin" / "neupol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m neupol_cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    environment = os.environ | {"_NEUPOL_COMPLETE": f"source_{shell}"}
    done = subprocess.run(["neupol"], env=environment, capture_output=True, text=True, check=True)
    path = tmp_path / "script"
    path.write_text(done.stdout)
    return path


def offered(shell: str, script: Path, line: str, folder: Path) -> list[str]:
    """The words for the last one of a command line, which may be empty."""
    words = line.split(" ")
    text = ASK[shell].format(
        script=script, words=shlex.join(words), count=len(words), line=shlex.quote(line)
    )
    command = [shell, *QUIET[shell], "-c", text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    if shell == "zsh":
        return re.findall(r'"([^"]*)"(?::"[^"]*")?', done.stdout)
    return [item.split("\t")[0] for item in done.stdout.splitlines()]


def test_the_script_is_valid(shell: str, script: Path) -> None:
    assert "neupol" in script.read_text()
    option = "--no-execute" if shell == "fish" else "-n"
    done = subprocess.run([shell, option, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_are_offered(shell: str, script: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "runs" / "point").mkdir(parents=True)
    (place / "runs" / "point" / "best.safetensors").touch()
    (place / "poly.safetensors").touch()
    bundled = sorted(name for name in registry.bundled() if name.startswith("po"))
    found = offered(shell, script, "neupol predict -m po", place)
    assert sorted(found) == sorted(["poly.safetensors", *bundled])
    assert offered(shell, script, "neupol relax --model runs/po", place) == ["runs/point"]
    known = {name for name in [*ENTRIES, *presets()] if name.startswith("egnn")}
    found = offered(shell, script, "neupol fit egnn", place)
    assert len(found) == len(known) and set(found) == known
    assert "bench-runtime" in offered(shell, script, "neupol be", place)


def test_every_model_is_offered_with_what_it_is() -> None:
    assert {name for name, said in completion.trained("") if said.startswith("bundled: ")} == set(
        registry.bundled()
    )
    assert {name for name, _ in completion.untrained("")} == {*ENTRIES, *presets()}
    assert all(said for _, said in completion.any_model(""))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_for_a_model_offers_them(name: str) -> None:
    """Of every command, whoever adds one."""
    context = typer.Context(COMMANDS[name])
    options = [one for one in COMMANDS[name].params if "-m" in one.opts]
    for option in options:
        assert "qm9" in {item.value for item in option.shell_complete(context, "q")}


def test_what_a_shell_asks_for_imports_no_torch() -> None:
    script = "import sys; from neupol_cli.completion import any_model; any_model('q'); "
    script += "print({'torch', 'numpy', 'h5py', 'ase'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
