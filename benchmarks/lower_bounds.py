"""Whether the oldest versions that pyproject.toml allows do: a second environment, and tests in it.

    python benchmarks/lower_bounds.py [FOLDER] [-- PYTEST WORDS]     (make lower-bounds)

Every lower bound of neupol's own requirements and of the tests' tools becomes a pin. PyTorch is the
exception: it is that of the interpreter which runs this, linked into the new environment, since
another one is gigabytes. What a test needs beyond that is skipped there as elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("pytest", "hypothesis", "scipy")  # of the extra `test`
LINKED = ("torch", "functorch", "torchgen")
TESTS = (
    "tests/test_app.py", "tests/test_checkpoint.py", "tests/test_calculator.py",
    "tests/test_completion.py", "tests/contracts/test_config.py", "tests/io/test_hdf5.py",
    "tests/io/test_volumetric.py", "tests/commands/test_predict.py",
    "tests/commands/test_density.py", "tests/commands/test_fit.py", "tests/commands/test_runs.py",
    "tests/commands/test_relax.py", "-k", "not linted",
)  # fmt: skip


def pins() -> list[str]:
    """``NAME==VERSION`` of every lower bound but PyTorch's, which is the installed one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join(wanted), re.M))
    names = [re.split(r"[<>=]", one)[0] for one in project["dependencies"]]
    oldest = {name: bounds[name] for name in (*names, *TOOLS)}
    oldest["torch"] = importlib.metadata.version("torch")
    return [f"{name}=={version}" for name, version in oldest.items()]


def make(folder: Path) -> Path:
    """A new environment with these versions; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    there, here = folder / "lib" / version / "site-packages", Path(sysconfig.get_path("purelib"))
    for path in (*map(here.joinpath, LINKED), *here.glob("torch-*.dist-info")):
        (there / path.name).symlink_to(path)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *pins(), "setuptools"], check=True)
    return python


def main() -> int:
    """Prints what was installed and what the tests say; their exit code."""
    own, _, words = " ".join(sys.argv[1:]).partition("--")
    with tempfile.TemporaryDirectory() as scratch:
        python = make(Path(own.strip() or scratch))
        print(f"# {platform.python_implementation()} {platform.python_version()}")
        subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        tests = [python, "-m", "pytest", "-p", "no:cacheprovider", *(words.split() or TESTS)]
        return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
