"""Scripts of benchmarks find what they import, and command lines of records say options they have.

Nothing is run: the scripts take minutes, packages and data that tests have not.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py"))}
TEXTS = [
    *(ROOT / "benchmarks").glob("**/*.md"),
    *(ROOT / "benchmarks/results").glob("*.txt"),
    *(ROOT / "docs").glob("**/*.md"),
    *(ROOT / "models/weights").glob("*.md"),
    *SCRIPTS.values(),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile")),
]
CALL = re.compile(r"benchmarks/(\w+)\.py((?: [^\n`|;&#]*)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a script takes from another one, or from neupol; no name: all."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            own = node.module in SCRIPTS or node.module.split(".")[0] == "neupol_cli"
            yield from ((node.module, one.name) for one in node.names if own)
        elif isinstance(node, ast.Import):
            yield from ((one.name, "") for one in node.names if one.name in SCRIPTS)


def defined(source: str) -> set[str]:
    """The names that a script has for others."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for child in ast.walk(node) if isinstance(node, ast.Assign | ast.AnnAssign) else ():
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                names.add(child.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(one.asname or one.name for one in node.names)
    return names


def found(module: str, name: str) -> bool:
    if module in SCRIPTS:
        return not name or name in defined(SCRIPTS[module].read_text())
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_imports_is_there(script: str) -> None:
    wanted = set(imported(SCRIPTS[script].read_text()))
    assert [one for one in sorted(wanted) if not found(*one)] == []


def parsers(script: str) -> str:
    """The text of a script and of those it imports from, which may read options for it."""
    own = SCRIPTS[script].read_text()
    others = {module for module, _ in imported(own)} & SCRIPTS.keys()
    return "".join([own, *(SCRIPTS[one].read_text() for one in sorted(others))])


def called(text: str) -> Iterator[tuple[str, str]]:
    """(script, option) of the command lines in a text."""
    for line in CALL.finditer(text.replace("\\\n", " ")):
        yield from ((line[1], option) for option in OPTION.findall(line[2]))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_have_the_options_that_are_written_down(path: Path) -> None:
    text = path.read_text()
    assert {name for name, _ in CALL.findall(text)} <= SCRIPTS.keys()
    lacking = [
        (name, option) for name, option in called(text) if f'"{option}"' not in parsers(name)
    ]
    assert lacking == []


def test_command_lines_are_seen() -> None:
    assert len({one for path in TEXTS for one in called(path.read_text())}) > 60
    text = "`python benchmarks/spins.py a --nope \\\n --only=1 | head --more`"
    assert [*called(text)] == [("spins", "--nope"), ("spins", "--only")]
