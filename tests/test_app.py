"""The command line itself: quick help, exit codes, version, completion, the installed package."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from neupol_cli import __version__, app, registry

ROOT = Path(__file__).parents[1]
COMMANDS = [*app.COMMANDS, *app.GROUPS]


def test_version(neupol) -> None:
    done = neupol("--version")
    assert (done.returncode, done.stdout) == (0, f"neupol {__version__}\n")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_answers_without_importing_torch(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    script = (
        "import sys\nfrom neupol_cli import app\n"
        f"try:\n    app.main({arguments})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'h5py', 'ase', 'e3nn', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    # The promise is 0.4 s; of processor time, the best of three, for machines that are busy, and no
    # more than three times what the parser takes for a command of one option, for those that are
    # slow: most of it is the parser's own, and a page of forty options is longer.
    bare = (
        "import typer\napp = typer.Typer()\n"
        "@app.command()\ndef command(number: int = 1) -> None:\n    return None\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    print()\n"
    )
    ours, theirs = (min(_processor_seconds(each) for _ in range(3)) for each in (script, bare))
    assert ours < max(0.4, 3 * theirs)


def _processor_seconds(script: str) -> float:
    """What a script costs that has to end well."""
    # Users' modules are compiled once, whatever the environment of the tests says of that.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def modules() -> set[str]:
    """Every module of the three folders, as it is called once installed."""
    found = set()
    for folder, package in (("neupol_cli", ""), ("commands", "commands"), ("models", "models")):
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.relative_to(ROOT / folder)
            if inner.parts[0] not in ("commands", "models") or folder != "neupol_cli":
                found.add(str(Path("neupol_cli", package, inner)))
    return found


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path: Path) -> None:
    """Built as users get it; without isolation, so that the test needs no network."""
    extra = tmp_path / "extra.cfg"  # builds aside: what lies in an old build/ would be packed too
    extra.write_text(f"[build]\nbuild_base = {tmp_path / 'build'}\n")
    environment = os.environ | {"PIP_NO_INDEX": "1", "DIST_EXTRA_CONFIG": str(extra)}
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT],
        check=True,
        capture_output=True,
        env=environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if name.endswith(".py")}
    assert code == modules()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"neupol_cli", f"neupol-{__version__}.dist-info"}
    carried = [
        path for kind in ("*.safetensors", "*.cpp", "*.h") for path in (ROOT / "models").rglob(kind)
    ]
    assert len(carried) > 10
    assert {f"neupol_cli/{path.relative_to(ROOT)}" for path in carried} <= names


def test_packages_are_found_and_the_version_is_one() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"]["find"]["include"] == ["neupol_cli*"]
    assert settings["project"]["version"] == __version__


def test_the_code_is_linted_formatted_and_typed() -> None:
    for command in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "-p", "neupol_cli"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
