"""The dipole as a vector: it turns with the molecule, and is learnt from vectors or lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch

from neupol_cli import checkpoint, registry
from neupol_cli.io import hdf5
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.warm import neupol

ET = "equivariant-transformer"
SMALL = {"hidden": 16, "layers": 2, "heads": 2, "encoding_size": 8}
REQUEST = Request(("dipole",), config=SMALL, dtype="float64")


def molecules() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    base = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    return [ase.Atoms("OHH", base + 0.1 * rng.normal(size=(3, 3))) for _ in range(24)]


def dataset(kind: str) -> hdf5.Dataset:
    """Dipoles of fixed charges: vectors, or only their lengths."""
    frames = molecules()
    charges = np.array([-0.8, 0.4, 0.4])
    vectors = np.array([4.8 * charges @ atoms.positions for atoms in frames])
    label = hdf5.Target(vectors, "D")
    if kind == "mu":
        label = hdf5.Target(np.linalg.norm(vectors, axis=1), "D")
    parts = dict(zip(("train", "valid", "test"), np.split(np.arange(24), [16, 20]), strict=True))
    made = hdf5.from_atoms(frames, "structures", "made up", targets={kind: label})
    return replace(made, splits={"s": parts})


@pytest.mark.parametrize("kind", ["dipole", "mu"])
def test_a_short_training_lowers_the_error_and_goes_on_exactly(kind: str) -> None:
    data = dataset(kind)
    settings = Settings(steps=60, batch_size=8, lr=3e-3, ema=0.9)
    one, other = (Trainer(task_for(ET, data, REQUEST), settings) for _ in range(2))
    before = one.evaluate_split("valid", lambda: None)["dipole"]
    for _ in range(60):
        one.step()
    assert one.evaluate_split("valid", lambda: None)["dipole"] < 0.5 * before
    for _ in range(20):
        other.step()
    third = Trainer(task_for(ET, data, REQUEST), settings)
    third.restore(other.state())
    for _ in range(40):
        third.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, third.parameters, strict=True))
    assert one.task.units["dipole"] == "D"


def test_it_turns_and_is_mirrored_with_the_molecule() -> None:
    model = task_for(ET, dataset("dipole"), REQUEST).model.eval()
    frames = molecules()[:3]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for matrix in (turn * np.sign(np.linalg.det(turn)), np.diag([1.0, 1.0, -1.0])):
        turned = [ase.Atoms(a.numbers, a.positions @ matrix.T + 5.0) for a in frames]
        vectors = model.predict(frames)["dipole"]
        assert vectors.shape == (3, 3) and np.abs(vectors).max() > 1e-3
        np.testing.assert_allclose(
            model.predict(turned)["dipole"], vectors @ matrix.T, rtol=0, atol=1e-10
        )


def test_its_length_is_what_the_head_of_mu_says() -> None:
    settings = {**SMALL, "units": ("D",)}
    vector = registry.build(ET, settings | {"targets": ("dipole",), "outputs": ("vector",)})
    length = registry.build(ET, settings | {"targets": ("mu",)})
    length.backbone.load_state_dict(
        vector.backbone.state_dict() | {"mean": torch.zeros(1)}, strict=True
    )
    frames = molecules()[:4]
    lengths = np.linalg.norm(vector.predict(frames)["dipole"], axis=1)
    np.testing.assert_allclose(length.predict(frames)["mu"], lengths, rtol=1e-5)


def test_a_number_that_is_called_dipole_stays_a_number() -> None:
    assert registry.build(ET, SMALL | {"targets": ("dipole",)}).backbone.readouts == ("scalar",)


def test_every_form_of_answer_has_its_three_components(tmp_path: Path) -> None:
    targets = {"targets": ("dipole", "mu"), "units": ("D", "D"), "outputs": ("vector", "dipole")}
    model = registry.build(ET, SMALL | targets)
    weights, source = tmp_path / "m.safetensors", tmp_path / "w.xyz"
    checkpoint.save(weights, ET, model, {"targets": {"dipole": "D", "mu": "D"}})
    frames = molecules()[:2]
    ase.io.write(source, frames)
    expected = registry.load(str(weights)).predict(ase.io.read(source, ":"))["dipole"]
    predict = ("predict", source, "-m", weights, "--device", "cpu")
    line = json.loads(neupol(*predict, "--json").stdout.splitlines()[0])
    np.testing.assert_allclose(line["properties"]["dipole"]["value"], expected[0], rtol=1e-6)
    table = neupol(*predict).stdout.splitlines()
    assert table[0].split("\t")[2:6] == ["dipole_x [D]", "dipole_y [D]", "dipole_z [D]", "mu [D]"]
    for name in ("a.extxyz", "a.h5", "a.csv"):
        assert neupol(*predict, "-o", tmp_path / name).returncode == 0
    stored = ase.io.read(tmp_path / "a.extxyz", "1").info["dipole_D"]
    np.testing.assert_allclose(stored, expected[1], atol=1e-6)
    assert hdf5.read(tmp_path / "a.h5").targets["dipole"].values.shape == (2, 3)
    assert (tmp_path / "a.csv").read_text().startswith("structure,formula,dipole_x [D],")
