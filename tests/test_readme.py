"""What the README shows works: its commands run, and it names every command and bundled model."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from neupol_cli import __version__, app, registry
from tests.warm import shell

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = sorted(
    f"benchmarks/results/{page.name}" for page in (ROOT / "benchmarks/results").glob("*.md")
)
PAGES = ["README.md", "benchmarks/README.md", *RESULTS]
COMMANDS = re.findall(
    r"^\$ (.+)$", "\n".join(re.findall(r"```console\n(.*?)```", README, re.S)), re.M
)


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    """The first of them as it was installed, the others by a stand-in that starts sooner."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if command == COMMANDS[0]:
        command = f"PATH={Path(sys.executable).parent}{os.pathsep}$PATH; {command}"
    done = shell(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_every_command_and_bundled_model_is_named() -> None:
    for name in [*app.COMMANDS, *app.GROUPS]:
        assert f"neupol {name}" in README
    for name in registry.bundled():
        assert f"neupol models {name}" in README


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_bundled_model_has_a_card_that_states_its_errors() -> None:
    assert registry.bundled()
    for name in registry.bundled():
        header, card = registry.bundled_header(name), registry.bundled_card(name)
        assert "neupol fit" in card and "## Limits" in card
        for target in header.get("targets", {}):
            assert target in card
