"""Several trainings that differ in one thing: run, resumed, and read back for a table.

A study is a list of runs, each a name and the arguments of `neupol fit`. What is finished is not
run again, what was interrupted goes on, and `--run NAME` makes one only, so that the cores of a
machine can share a study:

    python benchmarks/forces.py ... --list                   # the names
    python benchmarks/forces.py ... --run ethanol-egnn-mlp   # one of them
    python benchmarks/forces.py ... --report                 # the table of what is there
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One training: its name, and what `neupol fit` is given but for the folder."""

    name: str
    arguments: tuple[Any, ...]

    def perform(self, out: Path) -> None:
        """Trains until the run is finished and keeps what `neupol fit --json` says."""
        folder, result = out / self.name, out / f"{self.name}.json"
        if result.exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        begun = (folder / "config.json").exists()
        what = ("--resume",) if begun else self.arguments
        command = [sys.executable, "-m", "neupol_cli", "fit", *what, "-o", folder, "--json"]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{self.name}: neupol fit ended with {done.returncode}")
        result.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")


def options(description: str, out: str) -> argparse.ArgumentParser:
    """What every study can be options."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs")
    parser.add_argument("--run", action="append", help="only this one; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    return parser


def conduct(
    runs: Sequence[Run], options: argparse.Namespace, report: Callable[[Results], None]
) -> None:
    """Does what was options for and prints the table of the runs that are finished."""
    if options.list:
        print("\n".join(run.name for run in runs))
        return
    known = {run.name: run for run in runs}
    for name in [] if options.report else options.run or known:
        known[name].perform(options.out)
    there = {name: options.out / f"{name}.json" for name in known}
    report({name: json.loads(path.read_text()) for name, path in there.items() if path.exists()})


def seed_after_seed(runs: Sequence[Run]) -> list[Run]:
    """Runs whose names end in /SEED: the first seed's first, so that a study cut short has all its
    rows."""
    return sorted(runs, key=lambda run: int(run.name.rpartition("/")[2]))


def with_error(values: Sequence[float], form: str) -> str:
    """A mean and its standard error, where there are two values to tell it from."""
    if not values:
        return "-"
    text = f"{statistics.mean(values):{form}}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / len(values) ** 0.5:{form.removeprefix('+')}}"
    return text
