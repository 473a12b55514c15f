"""What `neupol COMMAND --help` costs: processor seconds, the fastest of five, beside a bare parser.

python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

from neupol_cli import app

BARE = (
    "import typer\napp = typer.Typer()\n"
    "@app.command()\ndef command(number: int = 1) -> None:\n    return None\n"
    "try:\n    app(['--help'])\nexcept SystemExit:\n    print()\n"
)


def seconds(script: str) -> float:
    """Processor seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    scripts = {"a parser of one option": BARE}
    for command in ("", *app.COMMANDS, *app.GROUPS):
        words = [command, "--help"] if command else ["--help"]
        call = f"from neupol_cli import app\napp.run({words})"
        scripts[f"neupol {' '.join(words)}"] = call
    for name, script in scripts.items():
        print(f"{min(seconds(script) for _ in range(5)):.2f} s  {name}", flush=True)


if __name__ == "__main__":
    main()
