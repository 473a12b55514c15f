"""neupol info: what a report of a fault needs, of whole and of broken installations."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from neupol_cli import __version__, registry, threads
from neupol_cli.info import hardware
from neupol_cli.info.packages import OPTIONAL
from tests.warm import ROOT, neupol

PARTS = [
    "neupol", "python", "packages", "optional", "torch", "threads", "cpu", "matrices", "gpu",
    "compiler", "kernels", "models",
]  # fmt: skip


def record(env: dict[str, str | None] | None = None) -> dict[str, Any]:
    done = neupol("info", "--json", env=env or {})
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def fresh(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process whose interpreter starts with these variables."""
    command = [sys.executable, "-m", "neupol_cli", "info", *words]
    env = os.environ | environment
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_says_all_of_it_in_one_screen() -> None:
    done = neupol("info")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line[:1] != " "] == PARTS
    assert len(lines) <= 24
    assert "not usable" not in done.stdout


def test_the_record_agrees_with_the_installation() -> None:
    import torch

    found = record({"OMP_NUM_THREADS": "1"})
    assert list(found) == PARTS
    assert found["neupol"]["version"] == __version__
    assert found["packages"]["torch"] == found["torch"]["version"] == torch.__version__
    assert all(found["packages"].values())
    assert found["threads"]["threads"] == 1 and found["threads"]["openmp"] == 1
    assert found["threads"]["cores"] == threads.limits().cores
    assert set(found["models"]) == set(registry.bundled())
    assert {model["checksum"] for model in found["models"].values()} == {"ok"}


def test_a_broken_torch_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text('raise OSError("libcudart.so.12: no such file")\n')
    done = fresh("--json", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert list(found) == PARTS
    assert (
        found["torch"] == found["matrices"] == {"error": "OSError: libcudart.so.12: no such file"}
    )
    assert {model["checksum"] for model in found["models"].values()} == {"not checked"}
    assert found["neupol"]["version"] == __version__ and found["cpu"]["cores"]


def test_a_torch_without_one_of_its_parts_is_said(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("__version__ = '0'\n")
    done = fresh(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^torch +not usable: AttributeError: .*'torch'", done.stdout, re.M)


def test_kernels_switched_off_or_without_a_compiler_are_said(tmp_path: Path) -> None:
    off = record({"NEUPOL_KERNELS": "0"})["kernels"]
    assert not off["work"] and not off["enabled"]
    without = record({"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)})
    assert without["compiler"] == {"path": None, "version": None}
    assert not without["kernels"]["work"] and without["kernels"]["enabled"]
    assert without["kernels"]["folder"] == str(tmp_path / "neupol")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "c++").write_text("#!/bin/sh\necho 'no licence today' >&2\nexit 1\n")
    (tmp_path / "c++").chmod(0o755)
    kernels = record({"CXX": str(tmp_path / "c++"), "XDG_CACHE_HOME": str(tmp_path)})["kernels"]
    assert not kernels["work"]
    assert "does not build activation.cpp (no licence today)" in kernels["warnings"][0]


def test_gpus_are_named_as_their_driver_names_them(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.86.15'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    record, text = hardware.gpu()
    assert text.startswith("NVIDIA H200, 143771 MiB, driver 570.86.15; PyTorch can use ")
    assert isinstance(record, dict) and record["devices"] == [
        {"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "570.86.15"}
    ]


def test_every_extra_is_among_the_optional_packages() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = {
        (re.split(r"[<>=;\[ ]", text)[0], extra)
        for extra, texts in extras.items()
        if extra not in ("test", "docs")  # which no command needs
        for text in texts
    }
    assert wanted <= {(package.name, package.extra) for package in OPTIONAL}


def test_no_secret_leaves() -> None:
    done = neupol("info", "--json", env={"SECRET_TOKEN": "hunter2"})
    assert done.returncode == 0 and "hunter2" not in done.stdout
