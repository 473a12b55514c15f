"""Pages lead to each other, to the code and to pictures; the site's parts that are made are whole.

Without the site's generator: `make docs` builds it, and lets no warning pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neupol_cli import app, registry
from neupol_cli.training import presets
from tests.docs.blocks import PAGES, ROOT

sys.path.insert(0, str(ROOT / "docs/site"))
import guide
import links
import reference

OTHERS = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "models/weights").glob("*.md")),
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]
MADE = set(reference.pages()) | {"models/index.md"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    text = links.FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """To files, to functions and classes of Python files, to headings of pages."""
    for target in links.targets(page.read_text()):
        path, part = links.resolved(name(page), target)
        assert (ROOT / path).exists() or path.removeprefix("docs/") in MADE, target
        if part and path.endswith(".py"):
            assert part in links.symbols(path), target
        elif part:
            assert part in headings(ROOT / path), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 120] == []


def sections(page: Path) -> Iterator[str]:
    yield from re.split(r"^#+ ", page.read_text(), flags=re.M)[1:]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/theory").glob("*.md")), ids=name)
def test_equations_stand_beside_the_lines_that_compute_them(page: Path) -> None:
    for section in sections(page):
        if "```math" in section:
            assert ".py#" in section, section.splitlines()[0]


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_no_page_holds_two_versions_of_itself(page: Path) -> None:
    """The marks that a merge leaves, wherever in a line a formatter has put them."""
    assert not re.findall(r"<{7} \w+|>{7} \w+", page.read_text())


def test_nav_names_pages_that_exist() -> None:
    """Those that it does not name are put under "How to"."""
    nav = (ROOT / "docs/site/mkdocs.yml").read_text().split("\ntheme:")[0]
    moved = set(links.MOVED.values())
    named = re.findall(r"[\w/]+\.md", nav)
    assert len(named) > 30 and len(set(named)) == len(named)
    for page in named:
        assert (ROOT / "docs" / page).exists() or page in MADE | moved, page


def test_the_reference_has_every_command_and_option() -> None:
    found = {command.name: command for command in reference.commands()}
    assert set(app.COMMANDS) < set(found)
    assert {one.split()[0] for one in found} == {*app.COMMANDS, *app.GROUPS}
    page = reference.pages()["commands/fit.md"]
    for text in (
        "--batch-size",
        "--resume",
        "## Optimiser",
        "[default: cosine]".replace("[", "\\["),
    ):
        assert text.replace("]", "\\]") in page
    for command in found.values():
        assert command.says and command.parameters


def test_the_guide_has_every_model() -> None:
    index = guide.index()
    for one in [*registry.bundled(), *registry.ENTRIES, *presets.presets()]:
        assert one in index


def test_links_are_rewritten_for_the_site() -> None:
    line = links.symbols("models/egnn/messages.py")["messages"]
    text = "[`m`](../../models/egnn/messages.py#messages) and `[no](link)`, [a](index.md#sources)"
    assert links.rewritten(text, "docs/theory/networks.md", "theory/networks.md") == (
        f"[`m`](../source/models/egnn/messages.py.md#__codelineno-0-{line})"
        " and `[no](link)`, [a](index.md#sources)"
    )
    card = links.rewritten(
        "[x](../../docs/scans.png)", "benchmarks/results/a.md", "measurements/a.md"
    )
    assert card == "[x](../scans.png)"


def test_no_help_has_words_that_a_terminal_takes_for_a_style() -> None:
    """Those in brackets, as [default: ...] is but for what the parser itself appends, vanish."""
    for command in reference.commands():
        for text in (command.says, *(one.says for one in command.parameters)):
            own = re.sub(r"  \[[^\[\]]*\]$", "", text)
            assert not re.search(r"\[[a-z/#@][^\]]*\]", own), f"{command.name}: {text}"
