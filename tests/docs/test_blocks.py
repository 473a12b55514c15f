"""What the pages show is what one gets: their commands run and print what stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main

from neupol_cli import app
from tests import warm
from tests.docs import blocks as pages
from tests.docs.blocks import Block

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]
RUN = [block for block in BLOCKS if block.kind in ("console", "python") or block.reason]
SHOWN = [block for block in BLOCKS if block.kind in ("bash", "make", "console")]
FIRST = next(block for block in RUN if block.page.name == "README.md")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """A page -> the folder that its blocks run in."""
    return {page: pages.prepared(tmp_path_factory.mktemp("page")) for page in pages.PAGES}


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_prints_what_the_page_shows(block: Block, folders: dict[Path, Path]) -> None:
    """README's first as it was installed, the others by a stand-in that starts sooner."""
    if block.reason:
        pytest.skip(block.reason)
    folder = folders[block.page]
    if block.kind == "python":
        done = warm.python("-c", block.text, cwd=folder)
        assert done.returncode == 0, done.stderr
    installed = str(Path(sys.executable).parent) if block is FIRST else ""
    for command, shown in block.commands if block.kind == "console" else ():
        printed = pages.run(command, folder, installed)
        assert "Traceback" not in printed.messages
        assert pages.difference(shown, printed.text) == "", f"{command}\n{printed.text}"
        assert printed.code == 0, printed.messages


def test_every_page_has_its_blocks_counted() -> None:
    assert len([block for block in RUN if not block.reason]) >= 28
    assert all(block.reason for block in BLOCKS if block.kind in ("bash", "make"))


def command_lines() -> list[tuple[Block, list[str]]]:
    """Each call of neupol in a block, in words."""
    found = []
    for block in SHOWN:
        text = re.sub(r"\s#.*", "", block.text.replace("\\\n", " "))
        for call in re.findall(r"(?:^|\$ |\t|\| )(?:.*-m neupol_cli|neupol) +(.*)", text, re.M):
            if "|| echo" not in call:  # they show refusals
                found.append((block, shlex.split(re.split(r"\s(?:\||>|&|2>)", call)[0])))
    return found


def test_commands_that_are_shown_exist_with_their_options() -> None:
    """Those that are not run, too: options are read, files are not."""
    lines, whole = command_lines(), typer.main.get_command(app.app)
    assert len(lines) > 40
    for block, words in lines:
        command = whole
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"{block}: {words}"
            command, words = command.commands[words[0]], words[1:]
        context = command.context_class(command, info_name="neupol")
        command.make_parser(context).parse_args(args=list(words))


def test_what_differs_is_seen() -> None:
    assert pages.difference("a 1.00 eV", "a  1.01\neV") == ""
    assert pages.difference("a 1.00 eV", "a 1.02 eV")
    assert pages.difference("in 1.00 s (2 probes/s)", "in 7.5 s (31,000 probes/s)") == ""
    assert pages.difference("8 atoms", "9 atoms")
    assert pages.difference("a b", "a b c") and pages.difference("a b c", "a b")
    assert pages.difference("a ... c 1.5", "a b b c 1.5") == ""
    assert pages.difference("a ... c", "a b d") and pages.difference("a ... b c", "a c")
    assert pages.difference("[1.5, 2.5]}", "[1.5, 2.5]}") == ""
    assert pages.difference("0.3%", "0.3e")
