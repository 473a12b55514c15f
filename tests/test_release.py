"""What users get: an sdist, the wheel that is made of it, and this wheel in an empty environment.

There, nothing of this checkout is found, and no compiler. PyTorch and the other requirements are
those of the tests, which are found but not installed: fetching them anew is hours and gigabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from neupol_cli import __version__
from tests.warm import ROOT, neupol

WATER = ROOT / "examples" / "water.xyz"
INTERPRETERS = ("python3.11", "python3.12", "python3.13")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both; without isolation, so that the test needs no network."""
    place = tmp_path_factory.mktemp("built")
    extra = place / "extra.cfg"  # builds aside: what lies in an old build/ would be packed too
    extra.write_text(f"[build]\nbuild_base = {place / 'build'}\n[egg_info]\negg_base = {place}\n")
    environment = os.environ | {"PIP_NO_INDEX": "1", "DIST_EXTRA_CONFIG": str(extra)}
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", place, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return place


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment, with the wheel in it; the folder of its programs."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "lib" / version / "site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    words = ["install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel]
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", *words]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / "bin"


def alone(programs: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed command, with nothing around it but what it brought."""
    environment = {"PATH": str(programs), "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [programs / "neupol", *words]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def modules() -> set[str]:
    """Every module of the three folders, as it is called once installed."""
    found = set()
    for folder, package in (("neupol_cli", ""), ("commands", "commands"), ("models", "models")):
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.relative_to(ROOT / folder)
            if inner.parts[0] not in ("commands", "models") or folder != "neupol_cli":
                found.add(str(Path("neupol_cli", package, inner)))
    return found


def test_the_wheel_holds_every_module_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"neupol-{__version__}-py3-none-any.whl"  # nothing is compiled to have it
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if name.endswith(".py")}
    assert code == modules()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"neupol_cli", f"neupol-{__version__}.dist-info"}
    carried = [
        path for kind in ("*.safetensors", "*.cpp", "*.h") for path in (ROOT / "models").rglob(kind)
    ]
    assert len(carried) > 10
    assert {f"neupol_cli/{path.relative_to(ROOT)}" for path in carried} <= names
    assert {f"neupol_cli/surfaces/page.{kind}" for kind in ("js", "css")} <= names


def test_the_sdist_holds_no_links_and_the_licence(built: Path) -> None:
    with tarfile.open(built / f"neupol-{__version__}.tar.gz") as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert not [member.name for member in members if member.issym() or member.islnk()]
    assert modules() | {"LICENSE", "README.md", "pyproject.toml"} <= names


def answer(text: str) -> dict[str, Any]:
    return json.loads(text)["properties"]


def test_without_a_compiler_it_predicts_the_same(installed: Path, tmp_path: Path) -> None:
    done = alone(installed, tmp_path, "predict", WATER, "--json")
    assert done.returncode == 0, done.stderr
    found, expected = answer(done.stdout), answer(neupol("predict", WATER, "--json").stdout)
    assert found.keys() == expected.keys() and len(found) == 12
    for name, measured in found.items():
        scale = max(1.0, abs(expected[name]["value"]))
        assert abs(measured["value"] - expected[name]["value"]) < 1e-5 * scale, name


def test_without_a_compiler_info_says_so(installed: Path, tmp_path: Path) -> None:
    done = alone(installed, tmp_path, "info")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^compiler +none called c\+\+ *$", done.stdout, re.M)
    said = "not built, for there is no compiler; PyTorch computes the same, slower"
    assert re.search(rf"^kernels +{said};", done.stdout, re.M)
    assert f"site-packages{os.sep}neupol_cli" in done.stdout and str(ROOT) not in done.stdout


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_every_file_compiles(
    interpreter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each Python that is said to do, where it is here."""
    path = shutil.which(interpreter)
    monkeypatch.setenv("PYENV_VERSION", interpreter.removeprefix("python"))  # asked by its shims
    works = path and subprocess.run([path, "--version"], capture_output=True, check=False)
    if not works or works.returncode:
        pytest.skip(f"there is no {interpreter}")
    copy = shutil.copytree(ROOT / "neupol_cli", tmp_path / "neupol_cli")
    command = [str(path), "-W", "error", "-m", "compileall", "-q", "-f", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
