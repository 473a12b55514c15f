"""neupol models: the networks there are, and the bundled checkpoints with what they can do."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from neupol_cli import registry


def models(
    name: Annotated[
        str | None, typer.Argument(help="A network or a bundled model, to see all about it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks and the bundled models, or describe one."""
    if as_json:
        typer.echo(json.dumps(_described(name) if name else _everything(), indent=2))
    elif name:
        _print_one(name)
    else:
        _print_all()


def _everything() -> dict[str, Any]:
    return {
        "networks": {entry.name: _network(entry) for entry in registry.ENTRIES.values()},
        "bundled": {name: _bundled(name) for name in registry.bundled()},
    }


def _described(name: str) -> dict[str, Any]:
    if name in registry.bundled():
        return _bundled(name)
    return _network(registry.entry(name)) | {"config": registry.defaults(name)}


def _network(entry: registry.Entry) -> dict[str, Any]:
    return {"task": entry.task, "summary": entry.summary, "source": entry.source}


def _bundled(name: str) -> dict[str, Any]:
    return registry.bundled_header(name)


def _print_all() -> None:
    from rich.table import Table

    from neupol_cli.console import stdout

    networks = Table("network", "answers", "what it is", "source", box=None, pad_edge=False)
    for entry in registry.ENTRIES.values():
        networks.add_row(entry.name, entry.task, entry.summary, entry.source)
    stdout().print(networks)
    bundled = Table("bundled", "network", "what it answers", box=None, pad_edge=False)
    for name in registry.bundled():
        header = _bundled(name)
        bundled.add_row(name, header["model"], ", ".join(header.get("targets", {})) or "density")
    if bundled.row_count:
        stdout().print()
        stdout().print(bundled)


def _print_one(name: str) -> None:
    from neupol_cli.console import stdout

    if name in registry.bundled():
        stdout().print(registry.bundled_card(name), markup=False, highlight=False)
        return
    for key, value in _described(name).items():
        if key == "config":
            stdout().print("settings (--set KEY=VALUE):")
            for field, default in value.items():
                stdout().print(f"  {field} = {default}", markup=False, highlight=False)
        else:
            stdout().print(f"{key}: {value}", markup=False, highlight=False)
