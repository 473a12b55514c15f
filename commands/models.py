"""neupol models: the networks there are, the presets, the bundled checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import registry
from neupol_cli.completion import any_model
from neupol_cli.training import presets

if TYPE_CHECKING:
    from neupol_cli.models.base import Header


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=any_model,
            help="A network, preset, bundled model, run folder or checkpoint, to see all about it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List networks, presets (networks with their published recipes) and bundled models."""
    if as_json:
        typer.echo(json.dumps(_described(name) if name else _everything(), indent=2))
    elif name:
        _print_one(name)
    else:
        _print_all()


def _everything() -> dict[str, object]:
    return {
        "networks": {entry.name: _network(entry) for entry in registry.ENTRIES.values()},
        "presets": {name: _preset(preset) for name, preset in presets.presets().items()},
        "bundled": {name: registry.bundled_header(name) for name in registry.bundled()},
    }


def _described(name: str) -> dict[str, object]:
    if name in registry.bundled():
        return dict(registry.bundled_header(name))
    preset = presets.presets().get(name)
    if _is_checkpoint(name):
        return dict(registry.load(name).header)
    if preset is None:
        return _network(registry.entry(name)) | {"config": registry.defaults(name)}
    config = registry.defaults(preset.network) | dict(preset.settings)
    return _preset(preset) | {"config": config}


def _network(entry: registry.Entry) -> dict[str, object]:
    return {"task": entry.task, "summary": entry.summary, "source": entry.source}


def _preset(preset: presets.Preset) -> dict[str, object]:
    """What a preset stands for, in the words of its file."""
    settings = dataclasses.asdict(preset)
    return {
        key: value for key, value in settings.items() if value and key not in ("name", "default")
    }


def _print_all() -> None:
    from rich.table import Table

    from neupol_cli.console import stdout

    networks = Table("network", "answers", "what it is", "source", box=None, pad_edge=False)
    for entry in registry.ENTRIES.values():
        networks.add_row(entry.name, entry.task, entry.summary, entry.source)
    known = Table("preset", "network", "what `neupol fit PRESET` trains", box=None, pad_edge=False)
    for preset in presets.presets().values():
        known.add_row(preset.name, preset.network, preset.summary)
    bundled = Table("bundled", "network", "what it answers", box=None, pad_edge=False)
    for name in registry.bundled():
        header = registry.bundled_header(name)
        bundled.add_row(name, header["model"], ", ".join(header.get("targets", {})) or "density")
    stdout().print(networks)
    for table in (known, bundled):
        if table.row_count:
            stdout().print()
            stdout().print(table)


def _print_one(name: str) -> None:
    from neupol_cli.console import stdout

    if name in registry.bundled():
        header = registry.bundled_header(name)
        lines = [registry.bundled_card(name), *_domain_lines(header)]
    elif _is_checkpoint(name):
        lines = list(_header_lines(registry.load(name).header))
    elif name in presets.presets():
        lines = list(_preset_lines(presets.presets()[name]))
    else:
        lines = list(_network_lines(name))
    for line in lines:
        stdout().print(line, markup=False, highlight=False)


def _is_checkpoint(name: str) -> bool:
    """Whether a name is that of a file or run folder, and of nothing that neupol has."""
    known = {*registry.ENTRIES, *registry.bundled(), *presets.presets()}
    return name not in known and Path(name).exists()


def _domain_lines(header: Header) -> Iterator[str]:
    """What is answered without a doubt, where the checkpoint says so."""
    from neupol_cli.domain import summary

    if "domain" in header:
        yield "domain (what is unlike it is answered with a doubt):"
        yield from (f"  {line}" for line in summary.lines(header["domain"]))


def _header_lines(header: Header) -> Iterator[str]:
    """What a checkpoint says of itself; tables of names and values one a line."""
    yield from _domain_lines(header)
    for key, value in header.items():
        if key == "domain":
            continue
        if not isinstance(value, dict):
            yield f"{key}: {value}"
            continue
        yield f"{key}:"
        yield from (f"  {name} = {item}" for name, item in value.items())


def _network_lines(name: str) -> Iterator[str]:
    yield from (f"{key}: {value}" for key, value in _network(registry.entry(name)).items())
    yield "settings (--set KEY=VALUE):"
    yield from (f"  {key} = {value}" for key, value in registry.defaults(name).items())
    known = [preset.name for preset in presets.presets().values() if preset.network == name]
    if known:
        yield f"presets: {', '.join(known)}"


def _preset_lines(preset: presets.Preset) -> Iterator[str]:
    """A preset as the command line that it stands for."""
    yield f"{preset.name}: {preset.summary}"
    yield f"source: {preset.source}"
    if preset.note:
        yield f"note: {preset.note}"
    yield f"network: {preset.network}, {registry.entry(preset.network).summary}"
    yield f"neupol fit {preset.network} DATA"
    yield from _options(preset.recipe, preset.settings)
    for case in preset.cases:
        yield f"where all targets are among {', '.join(case.targets)}:"
        yield from _options(case.recipe, case.settings)
    yield "settings of the network (--set KEY=VALUE):"
    config = registry.defaults(preset.network) | dict(preset.settings)
    yield from (f"  {key} = {value}" for key, value in config.items())


def _options(recipe: Mapping[str, object], settings: Mapping[str, object]) -> Iterator[str]:
    for key, value in recipe.items():
        for item in value if isinstance(value, list) else [value]:
            yield f"  --{key.replace('_', '-')} {item}"
    yield from (f"  --set {text}" for text in presets.texts(settings))
