"""Command lines in processes of their own that need not import torch again.

A server imports everything once; for each command line it forks a process with the standard
streams, folder and arguments that it is told, which ends as `python -m neupol_cli` does. Seconds of
imports are saved a command, nothing else differs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds
Done = subprocess.CompletedProcess[str]


class Server:
    """The parent's end."""

    def __init__(self) -> None:
        requested, self.asking = os.pipe()
        self.answers, answering = os.pipe()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.warm", str(requested), str(answering)]
        fds = (requested, answering)
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, pass_fds=fds)
        for each in fds:
            os.close(each)
        self.lines: IO[str] = os.fdopen(self.answers)

    def run(self, arguments: list[str], folder: Path, input: str | None, cwd: Path | None) -> Done:
        """One command line. Its streams are files in ``folder``."""
        (folder / "in").write_text(input or "")
        request = {"arguments": arguments, "folder": str(folder), "cwd": str(cwd or Path.cwd())}
        os.write(self.asking, (json.dumps(request) + "\n").encode())
        code = int(self.lines.readline())
        out, err = ((folder / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(arguments, code, out, err)


@cache
def _server() -> Server:
    return Server()


def neupol(
    *arguments: Any, input: str | None = None, cwd: Path | None = None, **settings: Any
) -> Done:
    """What a command line ends with and says; other ``settings`` are `subprocess.run`'s and cost a
    process from scratch."""
    words = list(map(str, arguments))
    if not settings:
        with tempfile.TemporaryDirectory() as folder:
            return _server().run(words, Path(folder), input, cwd)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings.pop("env", {})
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "neupol_cli", *words]
    settings = {"timeout": PATIENCE, "check": False, "input": input, "cwd": cwd} | settings
    return subprocess.run(command, capture_output=True, text=True, env=environment, **settings)


def _begin(request: dict[str, Any]) -> None:
    """Makes this process one that a shell has just started."""
    folder = Path(request["folder"])
    for number, name in enumerate(("in", "out", "err")):
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        stream = os.open(folder / name, how)
        os.dup2(stream, number)
        os.close(stream)
    signal.alarm(PATIENCE)  # which ends it, if nothing else does
    os.chdir(request["cwd"])
    sys.argv = ["neupol", *request["arguments"]]


def _serve(requests: IO[str], answering: int) -> None:
    """Forks a process for each request; returns in each of them, and ends with the requests."""
    for line in requests:
        if not os.fork():
            os.close(answering)
            _begin(json.loads(line))
            return
        _, status = os.wait()
        os.write(answering, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    import neupol_cli

    for module in pkgutil.walk_packages(neupol_cli.__path__, "neupol_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # a child that collects would copy every page of it
    requested, answering = map(int, sys.argv[1:])
    with os.fdopen(requested) as requests:
        _serve(requests, answering)
    from neupol_cli.app import main

    main()
