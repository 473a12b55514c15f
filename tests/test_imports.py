"""No file needs, through whatever detour, a file that needs it; models needs errors only."""

import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "benchmarks/house.py"


def house(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(HOUSE), str(checkout), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_there_are_no_circles_and_no_wrong_arrows():
    answer = house(HOUSE.parents[1])
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr


def test_hidden_circles_and_wrong_arrows_are_seen(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "commands").mkdir()
    (tmp_path / "neupol_cli/io").mkdir(parents=True)
    files = {
        "commands/predict.py": "",
        "commands/density.py": "",
        "models/late.py": "def f():\n    from neupol_cli.models.typed import x\n",
        "models/typed.py": "if TYPE_CHECKING:\n    from neupol_cli.models import late\n",
        "models/upward.py": "from neupol_cli.io import units\n",
        "models/fine.py": "from neupol_cli.errors import InputError\n",
        "neupol_cli/io/units.py": "",
        "neupol_cli/errors.py": "",
    }
    for network in ("egnn", "charge3net"):
        (tmp_path / "models" / network).mkdir()
        files[f"models/{network}/network.py"] = ""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    answer = house(tmp_path)
    assert answer.returncode == 1
    assert "neupol_cli.models.late neupol_cli.models.typed" in answer.stdout
    assert "neupol_cli.models.upward -> neupol_cli.io.units" in answer.stdout
    assert "neupol_cli.models.fine" not in answer.stdout
