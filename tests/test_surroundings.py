"""Hostile surroundings: no home, closed or full streams."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.warm import shell

WATER = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"
FRESH = f"{sys.executable} -m neupol_cli"  # libraries look for a home while they are imported


def test_without_a_home(tmp_path: Path) -> None:
    absent = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"))
    done = shell(f"{FRESH} predict -", input=WATER, cwd=tmp_path, **absent)
    assert done.returncode == 0 and "H2O" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "streams", "code", "message"),
    [
        (FRESH, ">&-", 74, "neupol: standard output is closed\n"),
        ("neupol", ">/dev/full", 74, "neupol: No space left on device\n"),
        ("neupol", "2>&-", 0, ""),
        ("neupol", "<&-", 65, "neupol: "),
    ],
)
def test_closed_and_full_streams(program: str, streams: str, code: int, message: str) -> None:
    done = shell(f"{program} predict - {streams}", input=WATER)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr  # beside a doubt
