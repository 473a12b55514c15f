"""benchmarks/displacements.py: what movable points do over a whole dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli import checkpoint, registry
from neupol_cli.io import hdf5
from neupol_cli.trajectory.measures import measures
from neupol_cli.trajectory.paths import trajectory
from tests.warm import python

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "displacements.py"
NAMES = ("H2O", "CH4", "CH3OH", "C2H6", "NH3", "CH3CHO")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """A network whose points move, and a dataset whose test part are the last four molecules."""
    folder = tmp_path_factory.mktemp("displacements")
    torch.manual_seed(0)
    settings = {"targets": ("zpve",), "units": ("eV",), "hidden": 8, "layers": 3}
    model = registry.build("egnn", settings | {"polarization": "movable"})
    for layer in model.backbone.layers[:-1]:
        torch.nn.init.normal_(layer.push.phi[2].weight, std=0.05)
    checkpoint.save(folder / "zpve.safetensors", "egnn", model, {"targets": {"zpve": "eV"}})
    dataset = hdf5.from_atoms([molecule(name) for name in NAMES], "structures", "made up")
    part = {"train": np.arange(2), "valid": np.zeros(0, np.int64), "test": np.arange(2, 6)}
    dataset.splits["random"] = part
    hdf5.write(folder / "some.h5", dataset)
    return folder / "zpve.safetensors", folder / "some.h5"


def run_script(*arguments: object) -> str:
    done = python(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_means_are_those_of_the_molecules_one_by_one(run) -> None:
    found = json.loads(run_script(*run, "--json"))
    model = registry.load(str(run[0]))
    each = [
        measures(trajectory(model, "it", name, molecule(name))) for name in NAMES[2:]
    ]  # the test part
    rows = [row for one in each for row in one]
    assert (found["molecules"], found["targets"]) == (4, ["zpve"])
    for key, group in found["groups"].items():
        mine = [row for row in rows if key in ("all", row["element"])]
        assert group["atoms"] == len(mine)
        for name, of in (("moved", "displacement"), ("outward", "outward")):
            wanted = np.mean([row[of] for row in mine])
            assert group[name] == pytest.approx(wanted, abs=1e-6)
        within = np.mean([row["of_half_bond"] < 1 for row in mine])
        assert group["within_half_bond"] == pytest.approx(within, abs=1e-12)
        outwards = np.mean([row["outward"] > 0 for row in mine])
        assert group["moved_outward"] == pytest.approx(outwards, abs=1e-12)
    assert list(found["groups"]) == ["all", "C", "H", "N", "O"]
    spread = np.std([np.mean([row["outward"] for row in one]) for one in each], ddof=1)
    assert found["outward_error"] == pytest.approx(spread / 2, abs=1e-6)


def test_a_table_of_several_models(run) -> None:
    text = run_script(run[0], run[0], run[1], "--count", 3, "--split", "all")
    assert "3 molecules of some.h5 (all, seed 0)" in text
    assert text.count("zpve.safetensors: zpve | all |") == 2
