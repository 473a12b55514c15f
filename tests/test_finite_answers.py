"""What is no number is never printed or written: weights that are finite and far too large."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch

from neupol_cli import checkpoint, registry
from neupol_cli.calculator import NeupolCalculator
from neupol_cli.errors import DivergedError
from neupol_cli.io import hdf5
from neupol_cli.models.soundness import check_finite
from tests.contracts.conftest import SMALL_DENSITIES

WATER = ase.Atoms("OHH", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]])
TEXT = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"


def inflated(path: Path, name: str, settings: dict[str, object], factor: float) -> Path:
    """A network whose weights were multiplied."""
    torch.manual_seed(0)
    model = registry.build(name, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    checkpoint.save(path, name, model, {"targets": model.targets})
    return path


@pytest.fixture(scope="module")
def energies(tmp_path_factory) -> Path:
    settings = {"targets": ("U0",), "units": ("eV",), "hidden": 8, "layers": 2}
    path = tmp_path_factory.mktemp("inflated") / "m.safetensors"
    return inflated(path, "egnn", settings | {"polarization": "movable"}, 1e30)


def refused(done, code: int = 76) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1 and "nan" not in done.stdout.lower()
    return done.stderr


@pytest.mark.parametrize("extra", [[], ["--json"], ["-o", "out.csv"], ["-m", "qm9"]])
def test_predict_ends(neupol, energies, tmp_path: Path, extra) -> None:
    done = neupol("predict", "-", "-m", energies, *extra, input=TEXT, cwd=tmp_path)
    assert "-: the model's U0 is not finite" in refused(done)
    assert not (tmp_path / "out.csv").exists() and not done.stdout


def test_evaluate_ends(neupol, energies, tmp_path: Path) -> None:
    targets = {"U0": hdf5.Target(np.array([1.0]), "eV")}
    data = hdf5.from_atoms([WATER], "structures", "test", targets=targets)
    hdf5.write(tmp_path / "d.h5", data)
    assert "not finite" in refused(neupol("evaluate", tmp_path / "d.h5", "-m", energies))


def test_trajectory_ends(neupol, energies) -> None:
    assert "not finite" in refused(neupol("trajectory", "-", "-m", energies, input=TEXT))


@pytest.mark.parametrize("name", SMALL_DENSITIES)
def test_density_ends(neupol, tmp_path: Path, name: str) -> None:
    path = inflated(tmp_path / "m.safetensors", name, SMALL_DENSITIES[name], 1e30)
    words = ("density", "-", "-m", path, "--spacing", "0.5", "-o", tmp_path / "o.cube")
    assert "density is not finite" in refused(neupol(*words, input=TEXT))
    assert not (tmp_path / "o.cube").exists()


def test_a_calculator_raises(energies) -> None:
    atoms = WATER.copy()
    atoms.calc = NeupolCalculator(str(energies))
    with pytest.raises(DivergedError, match="H2O: the model's U0 is not finite"):
        atoms.get_potential_energy()


def test_the_structure_of_a_force_is_named() -> None:
    forces = np.zeros((4, 3))
    forces[3, 1] = np.nan
    with pytest.raises(DivergedError, match=r"^b: the model's forces are"):
        check_finite({"forces": forces}, [ase.Atoms("H"), WATER], ["a", "b"])
