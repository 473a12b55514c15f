"""What `fit` learns of a model's errors, `predict` says and `evaluate` holds against the truth."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest

from tests.warm import ROOT, neupol


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.h5"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    done = neupol("data", "md17", source, "-o", path, "--partition", "20,56,4")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    small = ["--set", "hidden=8", "--set", "layers=2", "--set", "cutoff=5"]
    words = [*small, "--target", "energy", "--steps", "20", "-o", folder]
    done = neupol("fit", "egnn", data, *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def forced(data: Path) -> Path:
    """A run that has learnt forces, too."""
    folder = data.parent / "forced"
    small = ["--set", "hidden=8", "--set", "layers=2", "--set", "cutoff=5"]
    done = neupol("fit", "egnn", data, *small, "--steps", "10", "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def structure(data: Path) -> Path:
    path = data.parent / "ethanol.xyz"
    with np.load(ROOT / "tests" / "data" / "ethanol_80.npz") as stored:
        atoms = ase.Atoms(stored["nuclear_charges"], stored["coords"][0])
    ase.io.write(path, atoms)
    return path


def test_every_form_of_answer_has_it(run: Path, structure: Path, tmp_path: Path) -> None:
    done = neupol("predict", structure, "-m", run, "--forces", "--json")
    assert done.returncode == 0, done.stderr
    energy = json.loads(done.stdout)["properties"]["energy"]
    low, high = energy["interval"]
    half = (high - low) / 2
    assert low < energy["value"] < high and (low + high) / 2 == pytest.approx(energy["value"])

    done = neupol("predict", structure, "-m", run, "-o", tmp_path / "a.csv")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert float(row["energy_uncertainty [eV]"]) == pytest.approx(half, rel=1e-4)

    for name in ("a.extxyz", "a.h5"):
        done = neupol("predict", structure, "-m", run, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    info = ase.io.read(tmp_path / "a.extxyz").info
    assert info["energy_uncertainty_eV"] == pytest.approx(half, rel=1e-4)
    with h5py.File(tmp_path / "a.h5") as file:
        stored = file["targets/energy_uncertainty"]
        assert stored[()] == pytest.approx([half], rel=1e-4)


def test_forces_have_one_an_atom(forced: Path, structure: Path, tmp_path: Path) -> None:
    done = neupol("predict", structure, "-m", forced, "--forces", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)["forces"]
    half, sizes = np.array(record["uncertainty"]), np.linalg.norm(record["value"], axis=1)
    assert half.shape == (9,) and (half > 0).all()

    # A row has room for the largest force, and for what that one may be off.
    done = neupol("predict", structure, "-m", forced, "--forces")
    (row,) = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert float(row["largest force [eV/Angstrom]"]) == pytest.approx(sizes.max(), rel=1e-4)
    told = float(row["largest force_uncertainty [eV/Angstrom]"])
    assert told == pytest.approx(half[sizes.argmax()], rel=1e-4)

    for name in ("a.extxyz", "a.h5"):
        done = neupol("predict", structure, "-m", forced, "--forces", "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    columns = ase.io.read(tmp_path / "a.extxyz").arrays
    stored = columns["forces_uncertainty_eV_per_Angstrom"]
    np.testing.assert_allclose(stored, half, rtol=1e-4, atol=1e-6)
    with h5py.File(tmp_path / "a.h5") as file:
        stored = file["targets/forces_uncertainty"]
        np.testing.assert_allclose(stored[()], half, rtol=1e-4)
        assert stored.attrs["unit"] == "eV/Angstrom"


def test_evaluate_says_how_many_forces_it_holds(data: Path, forced: Path) -> None:
    done = neupol("evaluate", data, "-m", forced, "--split", "valid", "--json")
    assert done.returncode == 0, done.stderr
    records = {r["label"]: r for r in map(json.loads, done.stdout.splitlines())}
    forces = records["forces"]
    assert 0.85 <= forces["within_uncertainty"] <= 1.0
    assert forces["spearman_uncertainty_error"] > 0
    # Lengths of errors, of which a component is about half.
    assert forces["mean_uncertainty"] > 1.5 * forces["mean_absolute"]


def test_a_committee_has_the_mean_of_all(run: Path, structure: Path) -> None:
    done = neupol("predict", structure, "-m", run, "-m", run / "best.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    energy = json.loads(done.stdout)["properties"]["energy"]
    done = neupol("predict", structure, "-m", run, "--json")
    alone = json.loads(done.stdout)["properties"]["energy"]
    assert energy["spread"] == 0.0
    assert energy["interval"] == pytest.approx(alone["interval"])


def test_forces_of_a_committee(forced: Path, structure: Path, tmp_path: Path) -> None:
    models = ["-m", forced, "-m", forced / "last.safetensors"]
    done = neupol("predict", structure, *models, "--forces", "-o", tmp_path / "a.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as file:  # the last weights are not calibrated
        assert file["targets/forces_spread"].shape == (9,)
        assert "forces_uncertainty" not in file["targets"]


def test_evaluate_says_how_many_truths_it_holds(data: Path, run: Path) -> None:
    done = neupol("evaluate", data, "-m", run, "--split", "valid", "--json")
    assert done.returncode == 0, done.stderr
    records = {r["label"]: r for r in map(json.loads, done.stdout.splitlines())}
    energy = records["energy"]
    # Calibrated on these 56: the conformal rank keeps 0.9 of them, give or take what each half
    # learnt from the other.
    assert 0.85 <= energy["within_uncertainty"] <= 1.0
    assert energy["mean_uncertainty"] > energy["mean_absolute"]
    assert "within_uncertainty" not in records["forces"]
    by_atom = records["energy/atom"]
    assert by_atom["mean_uncertainty"] == pytest.approx(energy["mean_uncertainty"] / 9)


def test_too_few_unseen_structures_tell_nothing(data: Path, structure: Path) -> None:
    path, folder = data.parent / "few.h5", data.parent / "few"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    assert neupol("data", "md17", source, "-o", path, "--partition", "20,29,4").returncode == 0
    small = ["--set", "hidden=8", "--set", "layers=2"]
    done = neupol("fit", "egnn", path, *small, "--target", "energy", "--steps", "2", "-o", folder)
    assert done.returncode == 0, done.stderr
    done = neupol("predict", structure, "-m", folder, "--json")
    assert "interval" not in json.loads(done.stdout)["properties"]["energy"]
