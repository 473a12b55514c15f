"""``--config FILE.toml``: options from a file, the same for every command.

    model = ["qm9", "run"]     # --model qm9 --model run
    forces = true              # --forces; false: --no-forces
    layer-lr = ["heads=2"]     # as it is spelled on the command line, without the dashes
    files = ["water.xyz"]      # an argument, by its name

The file fills `default_map` of the command's context before anything else is looked at: what stands
on the command line wins, and all the rest is as if it stood there. Paths are seen from where the
command runs, as they are on the command line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from neupol_cli import provenance
from neupol_cli.errors import UsageError

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter


class Command(TyperCommand):
    """A command that takes ``--config``, too."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Every option and argument; help stays the last."""
        *own, last = super().get_params(ctx)
        return [*own, _option(), last]


@cache
def _option() -> Parameter:
    """``--config`` as typer makes it of an annotation."""
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return typer.main.get_command(app).params[0]


def _declared(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Options from a file, by their names; the command line wins.",
            is_eager=True,
            expose_value=False,
            callback=lambda ctx, value: _take(ctx, value),
        ),
    ] = None,
) -> None:
    """What carries the annotation."""


def _take(ctx: typer.Context, path: Path | None) -> None:
    if path is None or ctx.resilient_parsing:
        return
    values = dict(_values(ctx, path))
    provenance.inputs(path)
    ctx.default_map = values


def _values(ctx: typer.Context, path: Path) -> Iterator[tuple[str, object]]:
    """Parameter -> what the command line would have said.

    Raises:
        UsageError: no such option, or a value that is none of it.
    """
    known = {key_of(one): one for one in ctx.command.params if not getattr(one, "hidden", False)}
    for key, value in _table(path).items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UsageError(f"{path}: {ctx.command_path} has no option '{key}'{hint}")
        parameter = known[key]
        try:
            words = _words(value, parameter)
            parameter.process_value(ctx, words)
        except ValueError as error:
            raise UsageError(f"{path}: {key}: {error}") from error
        except typer.BadParameter as error:  # without words where nothing is given
            reason = error.message or "nothing is named"
            raise UsageError(f"{path}: {key}: {reason}") from error
        provenance.typed(words if isinstance(words, list) else [str(words)])
        yield parameter.name, words


def key_of(parameter: Parameter) -> str:
    """What an option or argument is called in a file."""
    name = max(parameter.opts, key=len)
    return name.lstrip("-").replace("_", "-")


def _table(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: is no TOML: {error}") from error


def _words(value: object, parameter: Parameter) -> bool | str | list[str]:
    """A value as it would be typed.

    Raises:
        ValueError: it is of another kind.
    """
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value
    if not (parameter.multiple or parameter.nargs == -1):
        return _word(value)
    return [_word(one) for one in (value if isinstance(value, list) else [value])]


def _word(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = {bool: "true or false", list: "an array", dict: "a table"}.get(type(value), "a time")
        raise ValueError(f"takes a text or a number, not {kind}")
    if "\0" in (word := str(value)):  # which no command line can have
        raise ValueError("a text has no character of code zero")
    return word
