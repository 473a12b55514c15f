"""The server behind tests/warm.py: everything imported once, a fork for each process asked for.

Ends with its standard input, and every process that it started with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import tempfile
import types
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO

PATIENCE = 900  # seconds, of a machine that is busy with other work
STREAMS = ("stdin", "stdout", "stderr")
# What commands import when they come to need it, and the command lines that have the parser and
# its printer do so; torch is not asked for anything, so that no thread is started here.
LATE = (
    "ase.io.extxyz", "ase.neighborlist", "ase.spacegroup", "h5py",
    "matplotlib.backends.backend_agg", "matplotlib.figure", "rich.progress", "scipy.ndimage",
    "scipy.spatial", "scipy.stats", "tomllib", "torch._dynamo", "torch.distributed", "vesin",
)  # fmt: skip
LIGHT = (["--help"], ["models"], ["predict", "--help"], ["predict", "--nonsense"])


def _import_all() -> None:
    import neupol_cli
    from neupol_cli import app

    for module in pkgutil.walk_packages(neupol_cli.__path__, "neupol_cli."):
        if not module.name.endswith("__main__"):
            with suppress(ModuleNotFoundError):  # of what need not be there, as triton
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for words in LIGHT:
            app.run(words)
    _draw()


def _draw() -> None:
    """A picture has matplotlib read its fonts, and make its parser of formulas."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.subplots().loglog([1, 1000], [1, 1000])
    figure.savefig(io.BytesIO())


class Forks:
    """The processes that run, each with the connection on which its end is reported."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.running: dict[int, socket.socket] = {}
        self.ends, self.ending = os.pipe()
        os.set_blocking(self.ending, False)

    def serve(self) -> dict[str, Any]:
        """Forks a process for each request; returns in each of them."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.ending)
        while True:
            ready, _, _ = select.select([self.listener, self.ends, 0], [], [])
            if 0 in ready:
                self.end()
            if self.ends in ready:
                os.read(self.ends, 1024)
                self.report()
            if self.listener in ready and (request := self.fork()):
                return request

    def end(self) -> NoReturn:
        """Nobody is left who could ask."""
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def report(self) -> None:
        """Says with which status those ended that have."""
        for pid in list(self.running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with self.running.pop(pid) as connection, suppress(OSError):
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def fork(self) -> dict[str, Any] | None:
        """The request, in the process that is to fulfil it."""
        connection, _ = self.listener.accept()
        header, streams, _, _ = socket.recv_fds(connection, 8, 3)
        length, text = int.from_bytes(header, "big"), b""
        while len(text) < length:
            text += connection.recv(length - len(text))
        if not (pid := os.fork()):
            request = json.loads(text)
            for other in (connection, self.listener, *self.running.values()):
                other.detach()  # its number is about to be somebody else's
            _take_up(dict(zip(request["streams"], streams, strict=True)))
            return request
        for stream in streams:
            os.close(stream)
        self.running[pid] = connection
        with suppress(OSError):
            connection.sendall(f"{pid}\n".encode())
        return None


def _take_up(streams: dict[int, int]) -> None:
    """Has these standard streams and no other file; signals do what they do in a new process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, name in enumerate(STREAMS):
        if number in streams:
            os.dup2(streams[number], number)
        else:
            os.close(number)
        stream = _opened(number, getattr(sys, name)) if number in streams else None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.closerange(3, 1 << 16)


def _opened(number: int, like: TextIO) -> TextIO:
    """A standard stream as Python opens one at its start."""
    return open(
        number, "w" if number else "r", 1 if number == 2 else -1, closefd=False,
        encoding=like.encoding, errors=like.errors, newline="\n" if number else None,
    )  # fmt: skip


def _settle(request: dict[str, Any]) -> None:
    """Folder, environment and limits."""
    signal.alarm(PATIENCE)  # which ends it, if nothing else does
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    for name, value in request["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def _run(first: str, *others: str) -> None:
    """What ``python first others`` runs."""
    sys.argv = [first, *others]
    if first == "-m":
        sys.argv, sys.path[0] = list(others), os.getcwd()
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *others[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(others[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")


def _run_to_end(arguments: list[str]) -> NoReturn:
    """The same, with the exit code that Python gives it; without a teardown of torch."""
    code = 0
    try:
        _run(*arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _import_all()
    gc.freeze()  # a child that collects would copy every page of it
    request = Forks(socket.socket(fileno=int(sys.argv[1]))).serve()
    _settle(request)
    _run_to_end(request["arguments"])
