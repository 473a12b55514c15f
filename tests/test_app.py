"""The command line itself: quick help, exit codes, version, completion."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from neupol_cli import __version__, app, registry

ROOT = Path(__file__).parents[1]
COMMANDS = [*app.COMMANDS, *app.GROUPS]


def test_version(neupol) -> None:
    done = neupol("--version")
    assert (done.returncode, done.stdout) == (0, f"neupol {__version__}\n")


# A process of its own for each help, forked where the parser and its printer are imported: these
# are the same for all.
HELP = """
import os, sys
import typer.rich_utils
HEAVY = {'torch', 'h5py', 'ase', 'e3nn', 'matplotlib', 'numpy', 'scipy', 'safetensors'}
for command in sys.argv[1:]:
    if not os.fork():
        from neupol_cli import app
        code = app.run([*command.split(), "--help"])
        ours = sum(name.startswith("neupol_cli") for name in sys.modules)
        print(command or "-", code, ours, *HEAVY & set(sys.modules), file=sys.stderr, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, list[str]]:
    """Command -> its exit code, how many of our modules it imported, and which heavy ones."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, "", *COMMANDS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {command: rest for command, *rest in map(str.split, done.stderr.splitlines())}


@pytest.mark.parametrize("command", ["-", *COMMANDS])
def test_help_imports_next_to_nothing(command: str, helps: dict[str, list[str]]) -> None:
    """Its time is that of imports (benchmarks/startup.py prints seconds): the parser, its printer
    and one small module a command."""
    code, ours, *heavy = helps[command]
    assert (code, heavy) == ("0", [])
    assert int(ours) <= 28 + len(COMMANDS)


# Commands that compute nothing first, then those that do, where torch is imported.
WORK = """
import os, sys
from neupol_cli import app
LAZY = {'e3nn', 'matplotlib', 'scipy', 'sympy', 'onnx', 'rdkit', 'ase.io', 'torch._dynamo', 'torch'}
for command in sys.argv[1:]:
    if command == "import torch":
        import torch
        LAZY -= {'torch'}
    elif not os.fork():
        code = app.run(command.split())
        print("HAD", code, *LAZY & set(sys.modules), file=sys.stderr, flush=True)
        os._exit(0)
    else:
        os.wait()
"""


def test_a_one_liner_imports_what_it_uses(tmp_path: Path) -> None:
    water, data = ROOT / "examples" / "water.xyz", tmp_path / "water.h5"
    frames = tmp_path / "frames.xyz"
    frames.write_text("1\nenergy=-1.0\nH 0 0 0\n" * 10)
    light = [
        f"data xyz {frames} --partition 4,3 -o {data}",
        f"data info {data}",
        "models",
        "models qm9",
    ]
    heavy = [f"predict {water}", f"density {water} --spacing 0.5 -o {tmp_path / 'w.cube'}"]
    commands = [*light, "import torch", *heavy]
    done = subprocess.run(
        [sys.executable, "-c", WORK, *commands], capture_output=True, text=True, check=False
    )
    had = [line for line in done.stderr.splitlines() if line.startswith("HAD")]
    assert had == ["HAD 0"] * (len(light) + len(heavy)), done.stderr


def test_wrong_usage_is_one_line_and_2(neupol) -> None:
    for arguments in (["nonsense"], ["predict", "--nonsense"], ["models", "nonsense"]):
        done = neupol(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_every_network_is_listed_and_described(neupol) -> None:
    listed = neupol("models").stdout
    for name in [*registry.ENTRIES, *registry.bundled()]:
        assert name in listed
        assert registry.defaults(name) if name in registry.ENTRIES else registry.bundled_card(name)
    assert "hidden = 128" in neupol("models", "egnn").stdout


def test_completion_scripts_are_there(neupol) -> None:
    done = neupol(env={"_NEUPOL_COMPLETE": "source_bash"})
    assert done.returncode == 0 and "_NEUPOL_COMPLETE" in done.stdout


def test_packages_are_found_and_the_version_is_one() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"]["find"]["include"] == ["neupol_cli*"]
    assert settings["project"]["version"] == __version__


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy -p neupol_cli"])
def test_the_code_is_linted_formatted_and_typed(command: str) -> None:
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
