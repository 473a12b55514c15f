"""Python processes of their own that need not import torch again.

A server (tests/forks.py) imports everything once; for each command line it forks a process with the
streams, folder, environment, limits and arguments that it is told, which from then on is what a
shell would have started. Seconds of imports are saved a process, nothing else differs: what depends
on the start of an interpreter (PYTHON..., OMP_NUM_THREADS, a signal while torch is imported) needs
a fresh one, by `subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from tests import advice

ROOT = Path(__file__).parents[1]
PATIENCE = 900  # seconds, of a machine that is busy with other work
SHARED = "NEUPOL_TESTS_FORKS"  # the environment's variable for the folder of a shared server
CLOSED = -9  # beside subprocess.PIPE and DEVNULL: a stream that is not there
MODES = ("w", "r", "r")  # of our ends of a process' three standard streams
STAND_IN = """#!{python} -IS
import sys
sys.path.insert(0, "{root}")
from tests.warm import relay
relay("{place}", sys.argv[1:])
"""
Done = subprocess.CompletedProcess[str]


class Server:
    """The process that forks, as whoever started it sees it; ends with that one.

    In its folder are its socket and a stand-in for ``neupol``.
    """

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.place = f"{self.folder.name}/socket"
        stand_in = Path(self.folder.name, "neupol")
        stand_in.write_text(STAND_IN.format(python=sys.executable, root=ROOT, place=self.place))
        stand_in.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.place)
            listener.listen()
            number = listener.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks", str(number)],
                env=environment(), cwd=ROOT, pass_fds=[number],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        atexit.register(self.process.communicate)


@cache
def server() -> Server:
    """This process' own, started when it is first needed."""
    return Server()


def folder() -> str:
    """Of the server that several test processes share, if there are several; else of our own."""
    return os.environ.get(SHARED) or server().folder.name


def environment(changes: Mapping[str, str | None] = {}) -> dict[str, str]:
    """This process' own with ``changes``: a None takes a variable away."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), SHARED: None}
    return {k: v for k, v in {**os.environ, **own, **changes}.items() if v is not None}


def ask(place: str, request: Mapping[str, object], streams: Sequence[int]) -> socket.socket:
    """Sends the server what to start, and file descriptors with it; the connection of it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place)
    text = json.dumps(request).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], streams)
    connection.sendall(text)
    return connection


class Process:
    """A forked process, with what `subprocess.Popen` has: pid, streams, wait, communicate."""

    stdin: IO[str]
    stdout: IO[str]
    stderr: IO[str]

    def __init__(
        self,
        *arguments: object,
        streams: Sequence[int | IO[Any]] = (subprocess.PIPE,) * 3,
        env: Mapping[str, str | None] = {},
        cwd: Path | None = None,
        limits: Mapping[str, int] = {},
        place: str = "",
    ) -> None:
        """``arguments`` are those of Python: -m MODULE, -c CODE, or a script. ``limits`` by their
        names in `resource`, as FSIZE."""
        self.arguments = list(map(str, arguments))
        self.returncode: int | None = None
        ends = [self._ends(number, stream) for number, stream in enumerate(streams)]
        request = {
            "arguments": self.arguments,
            "streams": [number for number, (theirs, _) in enumerate(ends) if theirs != CLOSED],
            "cwd": str(cwd or Path.cwd()),
            "environment": environment(env),
            "limits": dict(limits),
        }
        sent = [theirs for theirs, _ in ends if theirs != CLOSED]
        self.connection = ask(place or f"{folder()}/socket", request, sent)
        for theirs, ours in ends:
            if ours:
                os.close(theirs)
        self.answers = self.connection.makefile()
        self.pid = int(self.answers.readline())

    def _ends(self, number: int, stream: int | IO[Any]) -> tuple[int, bool]:
        """What one of its streams is for the process; whether that is to be closed here."""
        if stream == subprocess.DEVNULL:
            return os.open(os.devnull, os.O_RDWR), True
        if stream != subprocess.PIPE:
            return stream if isinstance(stream, int) else stream.fileno(), False
        reading, writing = os.pipe()
        theirs, ours = (writing, reading) if number else (reading, writing)
        setattr(self, ("stdin", "stdout", "stderr")[number], open(ours, MODES[number]))  # noqa: SIM115
        return theirs, True

    def poll(self, timeout: float = 0) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self.connection], [], [], timeout)[0]:
            self.returncode = int(self.answers.readline())
            self.connection.close()
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired, and ends it."""
        code = self.poll(timeout)
        if code is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return code

    def communicate(self, input: str = "", timeout: float = PATIENCE) -> tuple[str, str]:
        """What it writes until it ends, given ``input``."""
        with ThreadPoolExecutor(3) as pool:
            streams = (getattr(self, name, None) for name in ("stdout", "stderr"))
            texts = [pool.submit(stream.read) if stream else None for stream in streams]
            if hasattr(self, "stdin"):
                pool.submit(_feed, self.stdin, input)
            self.wait(timeout)
            out, err = (text.result() if text else "" for text in texts)
        return out, err

    def send_signal(self, number: int) -> None:
        """Nothing happens to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _feed(stream: IO[str], text: str) -> None:
    """Writes it all, or as much as is read."""
    try:
        with stream:
            stream.write(text)
    except BrokenPipeError:
        return


def python(*arguments: object, input: str | None = None, **settings: Any) -> Done:
    """What a process ends with and says; other ``settings`` are those of `Process`."""
    process = Process(*arguments, **settings)
    out, err = process.communicate(input or "")
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.arguments, process.returncode, out, err)


def neupol(*arguments: object, **settings: Any) -> Done:
    """What a command line of ours ends with and says, which it has to keep to (tests/advice.py)."""
    done = python("-m", "neupol_cli", *arguments, **settings)
    assert not [*advice.unknown(list(map(str, arguments)), done.stderr)], done.stderr
    return done


def wait_for(ready: Any, *processes: Process) -> None:
    """Until ``ready()`` is true; fails if one of the processes ends before."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shell(text: str, *, input: str = "", cwd: Path | None = None, **changes: str | None) -> Done:
    """A line for bash, in which ``neupol`` is one of these processes; it may close streams."""
    path = f"{folder()}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", text], env=environment({"PATH": path, **changes}), cwd=cwd, input=input,
        text=True, capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def relay(place: str, arguments: Sequence[str]) -> NoReturn:
    """The stand-in for ``neupol`` in a shell: hands its streams over, ends as the process does."""
    streams = [number if _is_open(number) else CLOSED for number in range(3)]
    while os.open(os.devnull, os.O_RDWR) <= 2:  # no socket of ours takes the place of one of them
        continue
    process = Process("-m", "neupol_cli", *arguments, streams=streams, env={}, place=place)
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
