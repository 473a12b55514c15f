"""``neupol relax`` as a user runs it, on springs whose minima are known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.optimize import BFGS

from neupol_cli.calculator import NeupolCalculator
from neupol_cli.io import structures
from tests import warm
from tests.simulation import harmonic
from tests.simulation.harmonic import LENGTH, domain_of, saved

WATER = "3\nwater\nO 0.0 0.1 0.119\nH 0.0 0.763 -0.477\nH 0.1 -0.763 -0.477\n"
HYDROXYL = "2\nmultiplicity=2\nO 0 0 0\nH 0 0 {}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("springs") / "model.safetensors")


def test_springs_are_as_long_as_they_want(model: Path) -> None:
    done = harmonic.neupol("relax", "-", "-m", model, "--fmax", "1e-9", "--json", input=WATER)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    lengths = ase.Atoms("OH2", found["positions"]).get_all_distances()[np.triu_indices(3, 1)]
    np.testing.assert_allclose(lengths, LENGTH, rtol=0, atol=1e-9)
    assert found["converged"] and found["fmax"] < 1e-9
    assert found["energy"] == {"value": pytest.approx(0, abs=1e-15), "unit": "eV"}
    assert found["energy_before"] > 0.5 and found["doubts"] == []


def test_it_is_what_ase_does_by_hand(model: Path) -> None:
    words = ["relax", "-", "-m", model, "--steps", "4", "--json"]
    found = json.loads(harmonic.neupol(*words, input=WATER).stdout)
    atoms = ase.io.read(io.StringIO(WATER), format="xyz")
    atoms.calc = NeupolCalculator(harmonic.built())
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=4)
    np.testing.assert_allclose(found["positions"], atoms.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["forces"]["value"], atoms.get_forces(), rtol=0, atol=1e-10)
    assert found["steps"] == 4


def test_held_atoms_stay(model: Path, tmp_path: Path) -> None:
    held = "3\nProperties=species:S:1:pos:R:3:move_mask:L:1\nO 0 0 0 F\nH 0 0 1 T\nH 0 0.9 -0.2 T\n"
    output = tmp_path / "o.extxyz"
    assert harmonic.neupol("relax", "-", "-m", model, "-o", output, input=held).returncode == 0
    ((_, end),) = structures.read([output])
    assert end.positions[0].tolist() == [0, 0, 0]
    assert abs(end.get_distance(1, 2) - LENGTH) < 1e-2
    assert end.constraints[0].index.tolist() == [0]
    assert abs(end.positions[1:] - [[0, 0, 1], [0, 0.9, -0.2]]).min(1).max() < 0.2


def test_selective_dynamics_and_the_cell(tmp_path: Path) -> None:
    model = saved(tmp_path / "m.safetensors", cutoff=1.3, targets=["energy"], units=["eV"],
                  outputs=[])  # fmt: skip
    poscar = tmp_path / "POSCAR"
    poscar.write_text(
        "two\n1.0\n2.2 0 0\n0 5 0\n0 0 5\nH\n2\nSelective dynamics\nCartesian\n"
        "0 0 0 F F F\n1.0 0 0 T T T\n"
    )
    found = json.loads(harmonic.neupol("relax", poscar, "-m", model, "--json").stdout)
    np.testing.assert_allclose(found["positions"], [[0, 0, 0], [1.1, 0, 0]], rtol=0, atol=1e-3)
    cubic = '1\nLattice="1.2 0 0 0 1.2 0 0 0 1.2"\nH 0 0 0\n'
    words = ["relax", "-", "-m", model, "--cell", "--fmax", "1e-6", "--json"]
    found = json.loads(harmonic.neupol(*words, input=cubic).stdout)
    np.testing.assert_allclose(found["cell"], 1.1 * np.eye(3), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["stress"]["value"], np.zeros((3, 3)), rtol=0, atol=1e-5)
    refused = harmonic.neupol("relax", "-", "-m", model, "--cell", input=WATER)
    assert refused.returncode == 65 and "periodic in 3 directions" in refused.stderr


def test_what_does_not_converge_is_said(model: Path) -> None:
    words = ["relax", "-", "-m", model, "--steps", "1"]
    done = harmonic.neupol(*words, input=WATER)
    (row,) = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert done.returncode == 0 and row["converged"] == "no" and row["steps"] == "1"
    assert done.stderr.startswith("neupol: -: doubtful: not relaxed: ")
    assert done.stderr.endswith("eV/Angstrom left after 1 steps\n")
    assert harmonic.neupol(*words, "--strict", input=WATER).returncode == 65


def test_where_the_domain_ends_it_stops(tmp_path: Path) -> None:
    short = [ase.Atoms("OH", [[0, 0, 0], [0, 0, d]]) for d in (0.95, 1.02)]
    model = saved(tmp_path / "m.safetensors", {"domain": domain_of(short)})
    words = ["relax", "-", "-m", model, "--json"]
    done = harmonic.neupol(*words, input=HYDROXYL.format(1.0))
    found = json.loads(done.stdout)
    assert done.returncode == 0 and not found["converged"]
    assert "where it left the model's domain; a bond H1-O1 of " in done.stderr
    length = found["positions"][1][2] - found["positions"][0][2]
    assert 1.05 < length < LENGTH
    assert harmonic.neupol(*words, "--strict", input=HYDROXYL.format(1.0)).returncode == 65
    done = harmonic.neupol(*words, "--accept", input=HYDROXYL.format(1.0))
    assert json.loads(done.stdout)["converged"] and "a bond H1-O1" in done.stderr


def test_an_energy_out_of_range_is_said_and_stops_nothing(tmp_path: Path) -> None:
    """As that of a minimum is, where a model was trained on a dynamics."""
    known = [ase.Atoms("OH", [[0, 0, 0], [0, 0, d]]) for d in (0.95, 1.15)]
    domain = domain_of(known) | {"ranges": {"energy": [0.05, 0.2]}}
    model = saved(tmp_path / "m.safetensors", {"domain": domain})
    done = harmonic.neupol("relax", "-", "-m", model, "--json", input=HYDROXYL.format(1.0))
    found = json.loads(done.stdout)
    assert found["converged"] and len(found["doubts"]) == 1, found
    said = "energy = 0.000 an atom is outside of what training structures had (0.050 to 0.200)"
    assert said in done.stderr


def test_files_say_what_made_them(model: Path, tmp_path: Path) -> None:
    output, way = tmp_path / "o.extxyz", tmp_path / "t.extxyz"
    words = ["-o", output, "--trajectory", way, "--threads", "2"]
    done = harmonic.neupol("relax", "-", "-m", model, *words, input=WATER + WATER)
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
    assert [row["structure"] for row in rows] == ["-#0", "-#1"]
    ends = [atoms for _, atoms in structures.read([output])]
    frames = [atoms for _, atoms in structures.read([way])]
    assert len(ends) == 2 and len(frames) == 2 * (int(rows[0]["steps"]) + 1)
    assert [end.info["structure"] for end in ends] == ["-#0", "-#1"]
    for end in ends:
        assert end.info["converged"] and end.info["optimizer"] == "bfgs"
        assert end.info["model"] == str(model) and abs(end.info["energy_eV"]) < 1e-4
        assert end.arrays["forces_eV_per_Angstrom"].shape == (3, 3)
    np.testing.assert_array_equal(frames[-1].positions, ends[1].positions)


def test_a_bad_structure_among_good_ones(model: Path) -> None:
    bad = "1\n\nXe 0 0 0\n"
    words = ["relax", "-", "-m", model, "--on-error", "skip"]
    done = harmonic.neupol(*words, input=bad + WATER)
    assert done.returncode == 0 and "(skipped)" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert harmonic.neupol("relax", "-", "-m", model, input=bad + WATER).returncode == 65
    done = harmonic.neupol(*words, input=bad)
    assert done.returncode == 65 and "no structure was left" in done.stderr


def test_a_model_that_has_not_learnt_forces(tmp_path: Path) -> None:
    error = {"value": 1.0, "unit": "eV"}
    model = saved(tmp_path / "m.safetensors", {"valid": {"energy": error}})
    done = harmonic.neupol("relax", "-", "-m", model, input=WATER)
    assert done.stderr == "neupol: -: doubtful: the model has not learnt forces\n"
    learnt = {"energy": error, "forces": {"value": 1.0, "unit": "eV/Angstrom"}}
    model = saved(tmp_path / "n.safetensors", {"valid": learnt})
    assert harmonic.neupol("relax", "-", "-m", model, input=WATER).stderr == ""


@pytest.mark.parametrize("command", [["relax"], ["vib"], ["md", "--steps", "1", "-o", "x"]])
def test_without_a_model_one_is_asked_for(command: list[str], tmp_path: Path) -> None:
    from neupol_cli import registry
    from neupol_cli.simulation.potential import learnt_forces

    done = warm.neupol(*command, "-", input=WATER, cwd=tmp_path)
    if any(learnt_forces(registry.bundled_header(name)) for name in registry.bundled()):
        assert done.returncode == 0
    else:
        message = "neupol: no bundled model has learnt forces; name one with -m\n"
        assert (done.returncode, done.stderr) == (2, message)


def test_words_that_there_are_not(model: Path, tmp_path: Path) -> None:
    for words, reason in (
        (["--optimizer", "newton"], "--optimizer is one of bfgs, "),
        (["--dtype", "half"], "--dtype is one of float32, float64"),
        (["-o", tmp_path / "o.cube"], "the ending is one of .extxyz, .xyz"),
        (
            ["-o", tmp_path / "o.xyz", "--trajectory", f"{tmp_path}/./o.xyz"],
            "--trajectory: is the file that -o names",
        ),
    ):
        done = harmonic.neupol("relax", "-", "-m", model, *words, input=WATER)
        assert done.returncode == 2 and reason in done.stderr
    done = warm.neupol("relax", "-", "-m", "points-homo", input=WATER)
    assert done.returncode == 65 and "forces need an energy" in done.stderr


def test_what_earlier_commands_found_elsewhere_is_not_said_again(
    model: Path, tmp_path: Path
) -> None:
    told = (
        "dft=7 step=4 time_fs=2.0 homo_eV=-7.1 r2_bohr2=20.0 mu_uncertainty_D=0.1 energy_eV=5 "
        'stress_eV_per_Angstrom3="1 0 0 0 1 0 0 0 1" '
        "Properties=species:S:1:pos:R:3:tags:I:1:forces_uncertainty_eV_per_Angstrom:R:1"
    )
    lines = [f"{atom} 1 0.5" for atom in WATER.splitlines()[2:]]
    given = "\n".join(["3", told, *lines, ""])
    for words, name in (
        (["relax", "-", "--steps", "2", "-o"], "o.extxyz"),
        (["md", "-", "--steps", "2", "-o"], "run"),
        (["vib", "-", "--modes"], "modes.extxyz"),
    ):
        path = tmp_path / name
        assert harmonic.neupol(*words, path, "-m", model, input=given).returncode == 0
        text = (path / "trajectory.extxyz" if path.is_dir() else path).read_text()
        (head,) = [line for line in text.splitlines()[:2] if "Properties=" in line]
        kept = [word.partition("=")[0] for word in head.split() if "=" in word]
        assert "dft" in kept and "tags:I:1" in head and "uncertainty" not in head
        assert not {"homo_eV", "r2_bohr2", "stress_eV_per_Angstrom3"} & {*kept}
        assert ("step" in kept) == (name == "run")
        assert ("energy_eV" in kept) == (name != "modes.extxyz")
        assert "energy_eV=5 " not in head
