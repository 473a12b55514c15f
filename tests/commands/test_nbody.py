"""From simulated particles to a trained network, as a user goes there."""

from __future__ import annotations

import json

import h5py
import pytest

from neupol_cli import registry
from neupol_cli.io import hdf5


@pytest.fixture(scope="module")
def data(neupol, tmp_path_factory):
    path = tmp_path_factory.mktemp("nbody") / "nbody.h5"
    sizes = ("--train", 60, "--valid", 20, "--test", 20)
    done = neupol("data", "nbody", "-o", path, *sizes)
    assert done.returncode == 0, done.stderr
    return path


def test_the_file_says_what_it_holds(neupol, data) -> None:
    found = json.loads(neupol("data", "info", data, "--json").stdout)
    assert (found["kind"], found["structures"], found["atoms"]) == ("nbody", 100, 500)
    assert found["splits"] == {"default": {"train": 60, "valid": 20, "test": 20}}
    assert found["position_unit"] == "1"
    assert found["elements"] == {}
    with h5py.File(data) as file:
        assert file["positions"].attrs["unit"] == "1"


def test_fit_learns_from_it(neupol, data, tmp_path) -> None:
    size = ("--set", "hidden=8", "--set", "layers=2", "--polarization", "movable")
    how = ("--epochs", 30, "--batch-size", 30, "--lr", "5e-3", "--valid-every", 30, "--json")
    done = neupol("fit", "egnn-nbody", data, "-o", tmp_path / "run", *size, *how)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    errors = [json.loads(line)["valid"]["mse"] for line in lines if '"valid"' in line]
    assert errors[-1] < errors[0]
    assert json.loads(done.stdout)["test"]["mse"]["value"] < 1.0


def test_the_published_recipe_is_the_default(neupol, data, tmp_path) -> None:
    done = neupol("fit", "egnn-nbody", data, "-o", tmp_path / "run", "--steps", 1)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    wanted = {"batch_size": 100, "lr": 5e-4, "weight_decay": 1e-12, "schedule": "constant"}
    assert {key: config[key] for key in wanted} == wanted
    assert config["loss"] == "l2"
    model = registry.load(str(tmp_path / "run"))
    dataset = hdf5.read(data)
    assert model.config.layers == 4
    assert model.header["data"]["fingerprint"] == dataset.fingerprint


def test_other_data_are_refused(neupol, data, tmp_path) -> None:
    done = neupol("fit", "egnn", data, "-o", tmp_path / "run", "--steps", 1)
    assert done.returncode == 65
    assert "nbody" in done.stderr
