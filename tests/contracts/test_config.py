"""Every option and argument of every command comes from ``--config`` as from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from neupol_cli import app, config
from neupol_cli.errors import UsageError
from neupol_cli.options import typed

ROOT = typer.main.get_command(app.app)
# What an option may take: the first that it does.
SAMPLES = ("skip", 3, 0.25, "cp2k", "minao", "charges", "text")


def commands() -> dict[str, Any]:
    """Name -> command; those of a group behind its name."""
    found: dict[str, Any] = {}
    for name, command in vars(ROOT)["commands"].items():
        members = getattr(command, "commands", None)
        if members is None:
            found[name] = command
        else:
            found |= {f"{name} {member}": one for member, one in members.items()}
    return found


COMMANDS = commands()


def visible(command: Any) -> list[Any]:
    return [one for one in command.params if not one.hidden]


def is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def context(command: Any, words: list[str]) -> Any:
    return command.make_context("it", words, parent=typer.Context(ROOT, info_name="neupol"))


def sample(command: Any, parameter: Any) -> Any:
    """A value that the parameter takes and that is not its default."""
    many = parameter.multiple or parameter.nargs == -1
    empty = typer.Context(command)
    for value in SAMPLES:
        try:
            parameter.process_value(empty, [str(value)] if many else str(value))
        except typer.BadParameter:
            continue
        return [value, value] if many else value
    raise AssertionError(f"{parameter.name}: none of {SAMPLES}")


def flags(parameter: Any) -> dict[bool, str]:
    pairs = {True: parameter.opts[-1]}
    return pairs | ({False: parameter.secondary_opts[-1]} if parameter.secondary_opts else {})


def options(command: Any, parameter: Any) -> Iterator[tuple[Any, list[str]]]:
    """Values of an option in a file, and the same on the command line."""
    if parameter.is_flag:
        yield from ((value, [flag]) for value, flag in flags(parameter).items())
        return
    value = sample(command, parameter)
    for flag in parameter.opts:
        several = value if isinstance(value, list) else [value]
        yield value, [word for one in several for word in (flag, str(one))]


def required(command: Any, but: Any) -> list[str]:
    """What has to stand on a command line beside ``but``."""
    words = []
    for one in visible(command):
        if one.required and one is not but:
            words += ["it.h5"] if is_argument(one) else [one.opts[-1], "it.h5"]
    return words


def written(path: Path, **values: Any) -> list[str]:
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items()]
    path.write_text("".join(lines))
    return ["--config", str(path)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    assert isinstance(command, config.Command)
    assert len({config.key_of(one) for one in visible(command)}) == len(visible(command))
    for parameter in visible(command):
        if is_argument(parameter):
            continue
        beside = required(command, parameter)
        for value, words in options(command, parameter):
            expected = context(command, [*beside, *words])
            file = written(tmp_path / "it.toml", **{config.key_of(parameter): value})
            found = context(command, [*file, *beside])
            assert found.params == expected.params
            assert typed(found, parameter.name) and typed(expected, parameter.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_all_arguments(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    arguments = [one for one in visible(command) if is_argument(one)]
    values = {config.key_of(one): sample(command, one) for one in arguments}
    words = [str(v) for value in values.values() for v in ([value], value)[type(value) is list]]
    beside = [w for one in visible(command) if one.required and not is_argument(one)
              for w in (one.opts[-1], "it.h5")]  # fmt: skip
    expected = context(command, [*beside, *words])
    found = context(command, [*beside, *written(tmp_path / "it.toml", **values)])
    assert found.params == expected.params
    assert all(typed(found, one.name) for one in arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_wins(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    for parameter in visible(command):
        if is_argument(parameter) or parameter.is_flag:
            continue
        value = sample(command, parameter)
        other = {
            "skip": "fail",
            3: 4,
            0.25: 0.5,
            "cp2k": "pyscf",
            "minao": "density",
            "charges": "electronegativity",
            "text": "word",
        }
        many = isinstance(value, list)
        key = value[0] if many else value
        file = written(tmp_path / "it.toml", **{config.key_of(parameter): value})
        beside = required(command, parameter)
        words = [parameter.opts[-1], str(other[key])]
        expected = context(command, [*beside, *words]).params
        assert context(command, [*file, *beside, *words]).params == expected
        assert context(command, [*words, *beside, *file]).params == expected


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("key", ["config", "help", "nonsense"])
def test_nothing_else(name: str, key: str, tmp_path: Path) -> None:
    words = required(COMMANDS[name], None) + written(tmp_path / "it.toml", **{key: "x"})
    with pytest.raises(UsageError, match=f"it.toml: neupol it has no option '{key}'"):
        context(COMMANDS[name], words)
