"""How many cores a process may use, and --threads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neupol_cli import threads

WATER = "3\n\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 16)


def system(root: Path, groups: str, **files: str) -> Path:
    """A file system with control groups; files by their paths, with ``__`` for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max")
        path = path.with_name(path.name.replace("cfs_", "cpu.cfs_"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_limits_all_cores_that_it_may_run_on(tmp_path: Path) -> None:
    assert threads.available({}, tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu_max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu_max": "350000 100000\n"}, 4),
        ("0::/\n", {"cpu_max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a__cpu_max": "200000 100000\n", "a__b__cpu_max": "max 100000\n"}, 2),
        ("0::/a/b\n", {"a__cpu_max": "800000 100000\n", "a__b__cpu_max": "300000 100000"}, 3),
        ("0::/elsewhere\n", {"cpu_max": "500000 100000\n"}, 5),  # of a container's host
        ("0::/\n", {"cpu_max": "nonsense\n"}, 16),
        ("0::/\n", {"cpu_max": "100000 0\n"}, 16),
        ("4:cpu,cpuacct:/x\n", {"cpu__x__cfs_quota_us": "60", "cpu__x__cfs_period_us": "10"}, 6),
        ("4:cpu,cpuacct:/x\n", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 16),
        ("5:memory:/x\n", {"memory__x__cpu_max": "100000 100000"}, 16),
        ("", {}, 16),
    ],
)  # fmt: skip
def test_control_groups_are_kept_to(
    groups: str, files: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert threads.available({}, system(tmp_path, groups, **files)) == cores


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 16),
        ({"OMP_NUM_THREADS": "many"}, 16),
        ({"OMP_NUM_THREADS": "0"}, 16),
        ({"LOCAL_WORLD_SIZE": "4"}, 4),
        ({"LOCAL_WORLD_SIZE": "32"}, 1),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "5"}, 5),
    ],
)
def test_the_environment_is_heard(environment: dict[str, str], cores: int, tmp_path: Path) -> None:
    assert threads.available(environment, tmp_path) == cores


@pytest.mark.parametrize("number", ["0", "1.5", "100000"])
def test_a_number_of_threads_that_is_none_is_refused(number: str, neupol: Any) -> None:
    done = neupol("predict", "-", "--threads", number, input=WATER)
    assert done.returncode == 2 and "--threads" in done.stderr and not done.stdout


def without_record(line: str) -> str:
    """An answer less the command line, which says how many threads there were."""
    return json.dumps({k: v for k, v in json.loads(line).items() if k != "provenance"})


def arrays_of(path: Path) -> dict[str, bytes]:
    with np.load(path) as arrays:
        return {key: arrays[key].tobytes() for key in arrays if key != "provenance"}


def test_commands_answer_the_same_with_any_number(
    neupol: Any, untrained: Any, tmp_path: Path
) -> None:
    model, frames = untrained(), WATER * 150
    found = [
        neupol("predict", "-", "-m", model, "--json", "--threads", n, input=frames).stdout
        for n in (1, 3)
    ]
    one, other = ([without_record(line) for line in text.splitlines()] for text in found)
    assert one == other and len(one) == 150
    cubes = []
    for n in (1, 2):
        done = neupol("density", "-", "--grid", "20,20,20", "-o", "w{}.npz", "--threads", n,
                      input=WATER * 2, cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        cubes.append([arrays_of(tmp_path / f"w{k}.npz") for k in range(2)])
    assert cubes[0] == cubes[1]
