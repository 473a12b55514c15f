"""What a mode of a command does not read is refused by name, not passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.errors import UsageError
from neupol_cli.io import volumetric
from neupol_cli.training.schedule import SHAPES, Schedule
from tests.warm import neupol

WATER = Atoms("OH2", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]])


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("charges rho.npz --margin 2", "rho.npz: this density has its grid"),
        ("potential rho.npz --margin 2", "rho.npz: this density has its grid"),
        ("density water.xyz --grid-from rho.npz -o a.npz --margin 2", "--margin: the grid is that"),
        ("density water.xyz --reference rho.npz --margin 2", "--margin: the grid is that"),
        ("density-descriptor iri water.xyz --grid-from rho.npz -o a.npz --margin 2", "--margin: "),
        ("encoding nothing --layer 2", "--layer is of what --plot, -o and --json have"),
        ("md water.xyz -o run --steps 1 --coupling 50", "--coupling is for --ensemble nvt or npt"),
        ("md water.xyz -o run --steps 1 --pressure 5", "--pressure is for --ensemble npt"),
        ("trajectory water.xyz --magnify 2", "--magnify shows in the picture of --plot"),
        ("trajectory water.xyz --beside charges", "--beside shows in the picture of --plot"),
    ],
)
def test_an_option_that_nothing_reads(line: str, refusal: str, tmp_path: Path) -> None:
    WATER.write(tmp_path / "water.xyz")
    grid = volumetric.by_counts(WATER, (4, 4, 4), 3.6)
    volume = volumetric.Volume(WATER, grid, np.ones((4, 4, 4), np.float32))
    volumetric.write(tmp_path / "rho.npz", volume, "")
    done = neupol(*line.split(), cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"neupol: {refusal}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", SHAPES)
def test_the_number_of_a_schedule(kind: str) -> None:
    if kind != "constant":
        assert Schedule(f"{kind}:2", 0.1).number == 2
        return
    with pytest.raises(UsageError, match="constant takes no number; leave '2' out"):
        Schedule(f"{kind}:2", 0.1)
