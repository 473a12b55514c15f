"""Runs of neupol 0.1 (tests/data/run-0.1) are loaded and go on as they would have gone on there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from neupol_cli import checkpoint, registry
from neupol_cli.io import hdf5
from tests.warm import neupol

RUN = Path(__file__).parents[1] / "data" / "run-0.1"


def test_its_weights_answer() -> None:
    dataset = hdf5.read(RUN / "ethanol.h5")
    model = registry.load(str(RUN))
    values = model.predict([dataset.atoms(k) for k in range(3)], forces=True)
    assert values["energy"].shape == (3,) and values["forces"].shape == (27, 3)
    assert dataset.fingerprint == json.loads((RUN / "config.json").read_text())["fingerprint"]


def test_it_goes_on_as_it_did(tmp_path: Path) -> None:
    """Twelve steps in 0.1 and eight more now are the twenty that were made in 0.1."""
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    data = (run / "ethanol.h5").rename(tmp_path / "ethanol.h5")
    expected = checkpoint.load_file(run / "resumed.safetensors")[1]
    (run / "resumed.safetensors").unlink()
    words = ("--resume", "-o", run, "--steps", "20", "--partition", "default")
    result = neupol("fit", "egnn", data, *words)
    assert result.returncode == 0, result.stderr
    assert "resuming at step 12" in result.stderr
    found = checkpoint.load_file(run / "last.safetensors")[1]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_the_old_spelling_says_what_it_is_now(tmp_path: Path) -> None:
    result = neupol("fit", "egnn", RUN / "ethanol.h5", "-o", tmp_path / "r", "--split", "default")
    assert result.returncode == 2
    assert result.stderr.strip() == "neupol: --split is no longer an option; use --partition"
