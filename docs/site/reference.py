"""The command reference: a page a command, read from the Typer application itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import typer.core
import typer.main

from neupol_cli.app import app

ARGUMENTS = "Arguments"


@dataclass(frozen=True)
class Parameter:
    """One option or argument: its panel, how it is written, what its help says."""

    panel: str
    written: str
    says: str


@dataclass(frozen=True)
class Command:
    """A command as its help describes it; ``name`` is without `neupol`."""

    name: str
    says: str
    usage: str
    parameters: tuple[Parameter, ...]


def commands() -> list[Command]:
    """Every command and subcommand, in the order of their names."""
    return sorted(_walked(typer.main.get_command(app), ""), key=lambda command: command.name)


def _walked(node: typer.core.TyperCommand, name: str) -> Iterator[Command]:
    if isinstance(node, typer.core.TyperGroup):
        for child, below in node.commands.items():
            yield from _walked(below, f"{name} {child}".strip())
        return
    context = node.context_class(node, info_name=f"neupol {name}")
    usage = node.get_usage(context).removeprefix("Usage: ")
    shown = (_parameter(parameter, context) for parameter in node.get_params(context))
    yield Command(name, node.help or "", usage, tuple(one for one in shown if one))


def _parameter(parameter: typer.core.TyperOption, context: object) -> Parameter | None:
    """None of one that the help does not show."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    is_argument = isinstance(parameter, typer.core.TyperArgument)
    panel = ARGUMENTS if is_argument else parameter.rich_help_panel or "Options"
    return Parameter(panel, *record)


def pages() -> dict[str, str]:
    """Page -> its text, for the site."""
    found = commands()
    pages = {f"commands/{_file(one)}": "\n".join(_page(one)) for one in found}
    rows = [f"| [neupol {one.name}]({_file(one)}) | {_first(one.says)} |" for one in found]
    head = ["# Commands", "", "`neupol COMMAND --help` prints what these pages say.", ""]
    return pages | {
        "commands/index.md": "\n".join([*head, "| command | what it does |", "|---|---|", *rows])
    }


def _file(command: Command) -> str:
    return f"{command.name.replace(' ', '_')}.md"


def _first(text: str) -> str:
    return _cell(text.split("\n\n")[0])


def _page(command: Command) -> Iterator[str]:
    yield from (f"# neupol {command.name}", "", command.says, "")
    yield from ("```text", command.usage, "```", "")
    for panel in dict.fromkeys(one.panel for one in command.parameters):
        yield from (f"## {panel}", "", f"| {panel.lower()} | meaning |", "|---|---|")
        for one in command.parameters:
            if one.panel == panel:
                yield f"| {_code(one.written)} | {_cell(one.says)} |"
        yield ""


def _code(text: str) -> str:
    return f"<code>{_cell(text)}</code>"


def _cell(text: str) -> str:
    """A table's cell: one line, in which nothing but `code` is markup."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else _plain(p) for p in pieces).replace("|", "&#124;")


def _plain(text: str) -> str:
    return re.sub(r"([\\*_\[\]$])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
