"""What it costs to start: `neupol COMMAND --help` beside a bare parser; one-liners beside torch.

    python benchmarks/startup.py [--pairs 10]

Processor seconds of each command's help, the fastest of five. With --pairs, seconds of the clock of
`predict water.xyz` and `density water.xyz -o w.cube` over those of `import torch`, in turns: the
median of so many ratios, and their range.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import in_turns

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


def one_liners(pairs: int) -> None:
    """Prints what two commands take, beside the import that neither can do without."""
    water = Path(__file__).parents[1] / "examples" / "water.xyz"
    with tempfile.TemporaryDirectory() as folder:
        words = {
            "import torch": ["-c", "import torch"],
            "predict": ["-m", "neupol_cli", "predict", water],
            "density": ["-m", "neupol_cli", "density", water, "-o", f"{folder}/w.cube"],
        }

        def run(arguments: list[object]) -> None:
            command = [sys.executable, *map(str, arguments)]
            subprocess.run(command, check=True, capture_output=True)

        sides = {name: lambda words=words[name]: run(words) for name in words}
        turns = in_turns(sides, pairs, clock=time.perf_counter)
    print(f"{turns.median('import torch'):.2f} s  import torch")
    for name in ("predict", "density"):
        ratio = turns.ratio_line(name, "import torch")
        print(f"{turns.median(name):.2f} s  {name} water.xyz: {ratio} times import torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=0)
    pairs = parser.parse_args().pairs
    if pairs:
        one_liners(pairs)
        return
    scripts = {"a parser of one option": BARE}
    for command in ("", *app.COMMANDS, *app.GROUPS):
        words = [command, "--help"] if command else ["--help"]
        call = f"from neupol_cli import app\napp.run({words})"
        scripts[f"neupol {' '.join(words)}"] = call
    for name, script in scripts.items():
        print(f"{min(seconds(script) for _ in range(5)):.2f} s  {name}", flush=True)


if __name__ == "__main__":
    main()
