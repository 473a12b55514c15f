"""README names every command and bundled model; what it shows is run in tests/docs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from neupol_cli import __version__, app, registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_and_bundled_model_is_named() -> None:
    for name in [*app.COMMANDS, *app.GROUPS]:
        assert f"neupol {name}" in README
    for name in registry.bundled():
        assert f"`{name}`" in README


def test_every_extra_is_in_the_table_of_the_start() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    start = (ROOT / "docs" / "start.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", start, re.M)
    assert sorted(rows) == sorted(project["optional-dependencies"])


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_bundled_model_has_a_card_that_states_its_errors() -> None:
    assert registry.bundled()
    for name in registry.bundled():
        header, card = registry.bundled_header(name), registry.bundled_card(name)
        assert "neupol fit" in card and "## Limits" in card
        for target in header.get("targets", {}):
            assert target in card
