"""The command line: one table of commands, one place where trouble becomes an exit code.

Command modules import typer and the registry only; torch is imported when a command runs, so that
every ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol, runtime_checkable

import typer

from neupol_cli import __version__, provenance, signals
from neupol_cli.commands import (
    bench_runtime,
    charges,
    data,
    density,
    density_compare,
    density_descriptor,
    encoding,
    evaluate,
    fit,
    info,
    md,
    models,
    potential,
    predict,
    relax,
    rerun,
    runs,
    trajectory,
    vib,
)
from neupol_cli.config import Command
from neupol_cli.distributed import torchrun
from neupol_cli.errors import NeupolError, StorageError, TemporaryError, out_of_memory
from neupol_cli.text import printable

BROKEN_PIPE = 141  # 128 + SIGPIPE
INTERRUPTED = 130  # 128 + SIGINT
BUG = 1
LINES = "\n"

app = typer.Typer(
    name="neupol",
    help="Molecular properties, forces and electron densities from equivariant networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# name -> a function with typer's annotations; a group of subcommands is mounted below.
COMMANDS: dict[str, Callable[..., None]] = {
    "bench-runtime": bench_runtime.bench_runtime,
    "charges": charges.charges,
    "density": density.density,
    "density-compare": density_compare.density_compare,
    "density-descriptor": density_descriptor.density_descriptor,
    "encoding": encoding.encoding,
    "evaluate": evaluate.evaluate,
    "fit": fit.fit,
    "info": info.info,
    "md": md.md,
    "models": models.models,
    "potential": potential.potential,
    "predict": predict.predict,
    "relax": relax.relax,
    "rerun": rerun.rerun,
    "runs": runs.runs,
    "trajectory": trajectory.trajectory,
    "vib": vib.vib,
}
GROUPS: dict[str, typer.Typer] = {
    "data": data.app,
}

for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
    for _member in _group.registered_commands:
        _member.cls = Command


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neupol {__version__}")
        raise typer.Exit


# What several processes of torchrun can do together.
SHARED = {"density", "fit", "predict"}


@app.callback()
def neupol(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Molecular properties, forces and electron densities from equivariant networks.

    Exit codes: 0 done, 2 usage, 65 bad input, 74 input/output, 75 try again, 76 diverged,
    78 checkpoint refused, 130/143 signals, 141 broken pipe; 1 is a bug of ours.
    """
    if ctx.invoked_subcommand not in SHARED:
        torchrun.alone(f"neupol {ctx.invoked_subcommand}")


def main() -> NoReturn:
    """The command line, as a process of its own."""
    signals.install()
    code = run(sys.argv[1:])
    atexit._run_exitfuncs()
    with suppress(OSError):  # its reader may have left
        sys.stderr.flush()
    # An interpreter that tidies up after torch takes two thirds of the time that importing it took,
    # and the threads of torch's exchanges do not always outlive that.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Runs a command line; the exit code that fits what happened."""
    _stand_in()
    from neupol_cli.allocator import keep_large_blocks

    keep_large_blocks()
    return signals.final(_flushed(_run(arguments)))


class _Closed(io.TextIOBase):
    """In place of a standard output that whoever called us has closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed")


def _stand_in() -> None:
    """Sees to it that all three standard streams exist, and that no file of ours takes the number
    of one that was closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - it stays open, as stdin does
    sys.stdout = sys.stdout or _Closed()
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # file names need not be text in any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    try:
        with provenance.recording(arguments):
            result = app(arguments, prog_name="neupol", standalone_mode=False)
        return result if type(result) is int else 0
    except NeupolError as error:
        return _say(str(error), error.code)
    except BrokenPipeError:
        return BROKEN_PIPE
    except SystemExit as end:
        if signals.received():
            signals.explain(arguments)
        # typer's own answer to a reader that left is exit(1), which here would mean a bug.
        return BROKEN_PIPE if end.code == 1 else _terminated(end)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _say(_oserror(error), StorageError.code)
    except Exception as error:
        return _other(error, arguments)


def _terminated(end: SystemExit) -> int:
    return end.code if type(end.code) is int else 0


@runtime_checkable
class _WrongUsage(Protocol):
    """What typer raises for a wrong command line; where the class is depends on its version."""

    exit_code: int

    def format_message(self) -> str: ...


def _other(error: Exception, arguments: Sequence[str]) -> int:
    """UsageError errors of typer carry their message and code; anything else is a bug of ours."""
    if isinstance(error, _WrongUsage):
        return _say(error.format_message(), error.exit_code)
    if out_of_memory(error):
        return _say(f"out of memory: {error}{_saving(arguments)}", TemporaryError.code)
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if signals.received():  # which a library met in the middle of something
        return signals.final(BUG)
    traceback.print_exc()
    return _say("this is a bug in neupol; please report the lines above, and neupol info", BUG)


def _saving(arguments: Sequence[str]) -> str:
    """What to change where memory is short, of what the command has."""
    less = {"--memory": "a smaller", "--batch-size": "a smaller", "--threads": "fewer"}
    own = options_of(arguments)
    advice = [f"{word} {option}" for option, word in less.items() if option in own]
    return f"; use {' or '.join(advice)}" if advice else ""


def options_of(arguments: Sequence[str]) -> set[str]:
    """The options, as they are written, of the command that a command line names."""
    command = typer.main.get_command(app)
    for word in arguments[:2]:
        command = getattr(command, "commands", {}).get(word, command)
    own = (one for one in command.params if one.param_type_name == "option")
    return {name for one in own for name in (*one.opts, *one.secondary_opts)}


def _oserror(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _say(message: str, code: int) -> int:
    if not signals.received():
        with suppress(OSError):  # the code says it as well
            print(f"neupol{_rank()}: {printable(message, keep=LINES)}", file=sys.stderr)
    return code


def _rank() -> str:
    """Which of several processes speaks."""
    try:
        rank, world_size = torchrun.rank_and_size()
    except NeupolError:
        return ""
    return f"[{rank}]" if world_size > 1 else ""


def _flushed(code: int) -> int:
    """Flushes stdout while the reader's absence can still be told from a bug."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit; give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(_oserror(error), StorageError.code)
    return code
