"""Spin densities of ``neupol density``, of a made-up model and of the bundled one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.vasp import VaspChargeDensity

from neupol_cli.io import volumetric
from tests.commands import gaussians
from tests.commands.gaussians import Gaussians, result, run
from tests.warm import neupol


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gaussians:
    made = gaussians.in_place(monkeypatch, tmp_path)
    made.config.spin = True
    return made


@pytest.mark.parametrize("name", ["s.cube", "s.xsf", "s.npz"])
def test_the_spin_density_is_a_file_by_itself(model: Gaussians, capsys, name: str) -> None:
    report = result(capsys, "water.xyz", "-o", "rho.npz", "--spin", name, "--spacing", "0.2")
    both, alone = volumetric.read("rho.npz"), volumetric.read(name)
    assert both.spin is not None and alone.spin is None
    np.testing.assert_allclose(both.spin, both.values / 4, rtol=0, atol=1e-7)
    np.testing.assert_allclose(alone.values, both.spin, rtol=0, atol=1e-6)
    assert report["spin"] == name
    assert report["spin_sum"] == pytest.approx(7.84 / 4, rel=0, abs=1e-3)
    assert report["spin_grid_error"] < 1e-3


def test_a_cube_says_what_it_has_no_place_for(model: Gaussians, capsys) -> None:
    code, out, err = run(capsys, "water.xyz", "-o", "rho.cube", "--spin", "s.cube")
    assert code == 0 and "written    rho.cube, s.cube" in out
    assert "rho.cube: holds the total density; it has no place for spin, --spin FILE has" in err
    assert "doubtful: 1.96 unpaired electrons" not in err  # two can be, and it knows no domain


def test_each_structure_has_its_own(model: Gaussians, capsys) -> None:
    Path("two.xyz").write_text(gaussians.WATER * 2)
    code, _, err = run(capsys, "two.xyz", "--spin", "s{}.npz", "--spacing", "0.5")
    assert code == 0, err
    first, second = (volumetric.read(f"s{k}.npz").values for k in (0, 1))
    np.testing.assert_array_equal(first, second)
    code, _, err = run(capsys, "two.xyz", "--spin", "s.npz", "--spacing", "0.5")
    assert code == 2 and "the name needs {}" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "a.cube", "--spin", "a.cube"], "--spin: is the file that -o names"),
        (["--spin", "a.png"], "the name must end in"),
        (["--spin", "no/a.cube"], "the folder no does not exist"),
    ],
)
def test_refusals(model: Gaussians, capsys, arguments: list[str], reason: str) -> None:
    code, _, err = run(capsys, "water.xyz", *arguments)
    assert code == 2 and reason in err and len(err.splitlines()) == 1


def test_a_model_without_spin_has_none_to_write(model: Gaussians, capsys) -> None:
    model.config.spin = False
    code, _, err = run(capsys, "water.xyz", "--spin", "s.cube")
    assert code == 2 and "--spin: this model's densities have no spin" in err
    assert not Path("s.cube").exists()


OXYGEN = "2\n{}\nO 0 0 0\nO 0 0 1.23\n"


def told(folder: Path, *arguments: str) -> tuple[dict, str]:
    done = neupol(*arguments, "-m", "spin", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("comment", ["multiplicity=3", "spin=2", ""])
def test_oxygen_is_a_triplet(tmp_path: Path, comment: str) -> None:
    (tmp_path / "o2.xyz").write_text(OXYGEN.format(comment))
    found, messages = told(tmp_path, "density", "o2.xyz", "-o", "CHGCAR", "--spin", "s.npz")
    assert found["spin_sum"] == pytest.approx(2, rel=0, abs=0.15)
    assert found["electrons_sum"] == pytest.approx(12, rel=0, abs=0.1)
    assert "unpaired" not in messages
    vasp = VaspChargeDensity(str(tmp_path / "CHGCAR"))
    element = vasp.atoms[0].get_volume() / vasp.chgdiff[0].size
    assert vasp.chgdiff[0].sum() * element == pytest.approx(found["spin_sum"], rel=0, abs=1e-4)
    alone = volumetric.read(tmp_path / "s.npz")
    assert alone.electrons == pytest.approx(found["spin_sum"], rel=0, abs=1e-4)


def test_what_calls_oxygen_a_singlet_is_doubted(tmp_path: Path) -> None:
    (tmp_path / "o2.xyz").write_text(OXYGEN.format("multiplicity=1"))
    found, _ = told(tmp_path, "density", "o2.xyz", "-o", "s.npz")
    assert any("unpaired electrons, and multiplicity 1 has 0" in d for d in found["doubts"])
    strict = neupol("charges", "o2.xyz", "-m", "spin", "--strict", cwd=tmp_path)
    assert strict.returncode == 65 and "multiplicity 1 has 0" in strict.stderr


def test_spins_of_atoms(tmp_path: Path) -> None:
    (tmp_path / "o2.xyz").write_text(OXYGEN.format("multiplicity=3"))
    found, _ = told(tmp_path, "charges", "o2.xyz", "--scheme", "hirshfeld,voronoi,mbis")
    for scheme in found["schemes"].values():
        spins = scheme["spins_e"]
        assert spins[0] == pytest.approx(spins[1], rel=0, abs=5e-3)
        assert sum(spins) == pytest.approx(2, rel=0, abs=0.15)


def test_a_closed_shell_has_next_to_no_spin(tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(gaussians.WATER)
    _, messages = told(tmp_path, "density", "water.xyz", "-o", "w.npz")
    volume = volumetric.read(tmp_path / "w.npz")
    assert volume.spin is not None
    assert np.abs(volume.spin).sum() * volume.grid.element < 0.1
    assert "unpaired" not in messages
