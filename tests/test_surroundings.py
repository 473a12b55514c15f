"""Hostile surroundings: no home, closed or full streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WATER = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"
COMMAND = f"{sys.executable} -m neupol_cli predict"


def shell(
    text: str, input: str = WATER, homeless: bool = False, **settings: object
) -> subprocess.CompletedProcess[str]:
    """A line for a shell, which can close streams."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME") if homeless else ():
        environment.pop(name, None)
    return subprocess.run(
        ["bash", "-c", text], env=environment, input=input, text=True, capture_output=True,
        check=False, **settings,
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def test_without_a_home(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} -", homeless=True, cwd=tmp_path)
    assert done.returncode == 0 and "H2O" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("streams", "code", "message"),
    [
        (">&-", 74, "neupol: standard output is closed\n"),
        (">/dev/full", 74, "neupol: No space left on device\n"),
        ("2>&-", 0, ""),
        ("<&-", 65, "neupol: "),
    ],
)
def test_closed_and_full_streams(streams: str, code: int, message: str) -> None:
    done = shell(f"{COMMAND} - {streams}")
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr  # beside a doubt
