"""SIGINT and SIGTERM at any moment: one line at most, its own exit code, never success."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data" / "run-0.1" / "ethanol.h5"
# The command line, with a signal at a place of the program's choosing.
PROGRAM = """
import os, signal, sys
from neupol_cli import signals
signals.install()
{before}
sys.argv = ["neupol", *{words}]
from neupol_cli.app import main
main()
"""
# While a module is imported, in the middle of what is not ours. A forked process has imported all
# of the training already, and forgets it.
WHILE_IMPORTING = """
import neupol_cli
vars(neupol_cli).pop("training", None)
for name in [name for name in sys.modules if name.startswith("neupol_cli.training")]:
    del sys.modules[name]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            {act}
sys.meta_path.insert(0, Finder())
"""


def ended(words: list[str], before: str, fresh: bool = True) -> subprocess.CompletedProcess[str]:
    script = PROGRAM.format(words=words, before=before)
    if not fresh:
        return warm.python("-c", script)
    return subprocess.run(
        [sys.executable, "-c", script], env=warm.environment(), text=True, capture_output=True,
        check=False,
    )  # fmt: skip


def kill(number: int, module: str, times: int = 1) -> str:
    act = f"[os.kill(os.getpid(), {int(number)}) for _ in range({times})]"
    return WHILE_IMPORTING.format(module=module, act=act)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["neupol_cli.training.fitting", "torch"])
def test_a_training_that_has_not_begun_says_so(number: int, module: str, tmp_path: Path) -> None:
    words = ["fit", "egnn", str(DATA), "-o", str(tmp_path / "run"), "--steps", "2"]
    done = ended(words, kill(number, module), fresh=module == "torch")
    name = signal.Signals(number).name
    assert done.returncode == 128 + number
    assert done.stderr == f"stopped by {name} before a step was made; start it again\n"
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_folder_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    words = ["fit", "--resume", "-o", str(run)]
    done = ended(words, kill(signal.SIGINT, "neupol_cli.training.loop"), fresh=False)
    assert done.returncode == 130
    assert done.stderr == f"stopped; go on with: neupol fit --resume -o {run}\n"


def test_other_commands_end_in_silence() -> None:
    done = ended(["models"], kill(signal.SIGTERM, "rich.table"))
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


SWALLOWED = """
from neupol_cli.commands import models
def careless(*words, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        {then}
models._print_all = careless
"""


@pytest.mark.parametrize("then", ["pass", "raise RuntimeError from error", "raise OSError('x')"])
def test_what_a_library_makes_of_it_is_no_success_and_no_bug(then: str) -> None:
    done = ended(["models"], SWALLOWED.format(then=then))
    assert (done.returncode, done.stderr) == (130, "")


CALLBACK = """
import time, weakref
from neupol_cli.commands import models
class Thing: pass
def collects(*words, **options):
    thing = Thing()
    gone = weakref.ref(thing, lambda reference: os.kill(os.getpid(), signal.SIGINT))
    del thing
    time.sleep(60)
    print("still here")
models._print_all = collects
"""


def test_it_is_not_lost_in_a_callback() -> None:
    done = ended(["models"], CALLBACK)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# The moments between making a file and seeing to it that it goes again, and the reverse.
BETWEEN = """
from neupol_cli.io import files
before = files.{name}
def interrupted(*words):
    files.{name} = before
    os.kill(os.getpid(), signal.SIGTERM)
    return before(*words)
files.{name} = interrupted
"""


@pytest.mark.parametrize("name", ["_flock", "_sign", "Path.unlink"])
def test_no_lock_stays_behind(name: str, tmp_path: Path) -> None:
    frames = tmp_path / "frames.xyz"
    frames.write_text("1\nenergy=-1.0\nH 0 0 0\n" * 10)
    words = ["data", "xyz", str(frames), "--partition", "4,3", "-o", str(tmp_path / "a.h5")]
    done = ended(words, BETWEEN.format(name=name))
    assert (done.returncode, done.stderr) == (143, "")
    assert {path.name for path in tmp_path.iterdir()} <= {"frames.xyz", "a.h5"}


def test_a_run_folder_is_not_left_behind_empty(tmp_path: Path) -> None:
    words = ["fit", "egnn", str(DATA), "-o", str(tmp_path / "run"), "--steps", "2"]
    done = ended(words, BETWEEN.format(name="_flock"), fresh=False)
    assert done.returncode == 143 and not list(tmp_path.iterdir())


TWICE = """
from neupol_cli.commands import models
def slow(*words, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here")
models._print_all = slow
"""


def test_a_second_signal_ends_at_once() -> None:
    done = ended(["models"], TWICE)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_before_the_command_line_is_there() -> None:
    """The module that is run imports nothing before it takes up signals."""
    script = (
        "import sys, neupol_cli.__main__\n"
        "assert not {'typer', 'click', 'torch', 'rich', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], env=warm.environment(), check=True)


def answers_signals(process: subprocess.Popen[str]) -> bool:
    """Whether it has taken up SIGTERM, which Python by itself leaves to the system."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("delay", [0, 0.3, 1.0])
def test_whenever_it_comes(tmp_path: Path, delay: float) -> None:
    words = ["fit", "egnn", str(DATA), "-o", str(tmp_path / "run"), "--set", "hidden=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neupol_cli", *words],
        env=warm.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not answers_signals(process):
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    message = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in message
