"""``neupol data xyz`` and ``info``, and what all of ``neupol data`` has in common."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write

from neupol_cli.datasets import splits, xyz
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, units
from tests.raw_data import Run, info, original_files
from tests.warm import Process, wait_for

FED = (subprocess.PIPE, subprocess.DEVNULL, subprocess.DEVNULL)


def labelled(path: Path, count: int = 20, energy: str = "E_dft", forces: str = "F_dft") -> Path:
    frames = []
    for k in range(count):
        atoms = molecule(("H2O", "CH4", "CO")[k % 3])
        atoms.info |= {energy: float(-k), "dipole": np.array([k, 0.0, 1.0])}
        atoms.arrays[forces] = np.full((len(atoms), 3), float(k))
        frames.append(atoms)
    ase_write(path, frames, format="extxyz")
    return path


def test_labels_of_extxyz(neupol: Run, tmp_path: Path) -> None:
    frames = labelled(tmp_path / "a.xyz")
    done = neupol(
        "data", "xyz", frames, "-o", tmp_path / "a.h5", "--energy-key", "E_dft", "--energy-unit",
        "kcal/mol", "--forces-key", "F_dft", "--target", "dipole=e*Angstrom", "--seed", "3",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = hdf5.read(tmp_path / "a.h5")
    assert {name: (t.unit, t.per) for name, t in found.targets.items()} == {
        "dipole": ("D", "structure"),
        "energy": ("eV", "structure"),
        "forces": ("eV/Angstrom", "atom"),
    }
    energies = -np.arange(20) * units.KCALMOL
    np.testing.assert_allclose(found.targets["energy"].values, energies, rtol=1e-14)
    assert found.targets["forces"].values[-1].tolist() == [19.0, 19.0, 19.0]
    assert found.targets["dipole"].values.shape == (20, 3)
    assert {name: len(part) for name, part in found.splits["default"].items()} == {
        "train": 16, "valid": 2, "test": 2
    }  # fmt: skip


def test_usual_labels_are_found_and_absent_ones_named(neupol: Run, tmp_path: Path) -> None:
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    done = neupol("data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(hdf5.read(tmp_path / "a.h5").targets) == ["energy", "forces"]
    labelled(tmp_path / "b.xyz")
    for extra in ((), ("--energy-key", "TotEnergy")):
        done = neupol("data", "xyz", tmp_path / "b.xyz", "-o", tmp_path / "b.h5", *extra)
        assert done.returncode == 65
        assert "E_dft, F_dft, dipole" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b.h5").exists()
    done = neupol("data", "xyz", tmp_path / "b.xyz", "-o", tmp_path / "b.h5", "--target", "dipole")
    assert done.returncode == 2 and "KEY=UNIT" in done.stderr


def test_results_of_ase_are_labels(tmp_path: Path) -> None:
    atoms = molecule("CH4")  # five atoms, and a vector of five a structure beside
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.ones((5, 3)))
    atoms.info["five"] = np.arange(5.0)
    ase_write(tmp_path / "a.traj", [atoms] * 3)
    found = xyz.read([tmp_path / "a.traj"], {})
    assert found.targets["energy"].values.tolist() == [-2.0] * 3
    assert found.targets["forces"].values.shape == (15, 3)
    kinds = {name: per for name, (_, per) in xyz._labels(atoms).items()}
    assert kinds == {"energy": "structure", "forces": "atom", "five": "structure"}


def test_bad_frames_stop_or_are_skipped(neupol: Run, tmp_path: Path) -> None:
    text = labelled(tmp_path / "a.xyz", energy="energy", forces="forces").read_text()
    (tmp_path / "a.xyz").write_text(text.replace("0.00000000", "nan", 1))
    arguments = ("data", "xyz", "-", "-o", tmp_path / "a.h5")
    done = neupol(*arguments, input=(tmp_path / "a.xyz").read_text())
    assert done.returncode == 65 and done.stderr.startswith("neupol: -:3: 'nan' is not finite")
    done = neupol(*arguments, "--on-error", "skip", input=(tmp_path / "a.xyz").read_text())
    assert done.returncode == 0 and "(skipped)" in done.stderr
    assert info(neupol, tmp_path / "a.h5")["structures"] == 19


def test_usual_labels_are_taken_beside_named_ones(neupol: Run, tmp_path: Path) -> None:
    """Forces are not lost because the energy has another name, nor an energy beside a target."""
    head = "Properties=species:S:1:pos:R:3:forces:R:3 E_dft=-2 energy=-3"
    rows = "O 0 0 0 1 2 3\nH 0 0 1 4 5 6"
    (tmp_path / "a.xyz").write_text(f"2\n{head}\n{rows}\n")
    path = tmp_path / "a.h5"
    call = ("data", "xyz", tmp_path / "a.xyz", "-o", path)
    assert neupol(*call, "--energy-key", "E_dft", "--energy-unit", "Hartree").returncode == 0
    found = hdf5.read(path).targets
    assert found["energy"].values[0] == pytest.approx(-2 * 27.211386245988, abs=1e-12)
    assert found["forces"].values[1].tolist() == [4, 5, 6]
    assert neupol(*call, "--target", "E_dft=eV").returncode == 0
    assert set(hdf5.read(path).targets) == {"E_dft", "energy", "forces"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--energy-unit", "eV/Angstrom"), "a unit of force"),
        (("--energy-unit", "D"), "a unit of dipole"),
        (("--forces-unit", "foo"), "unknown unit 'foo'"),
        (("--forces-unit", "kcal/mol/Angstrom"), "no label 'forces' that could be in"),
        (("--target", "a/b=eV"), "'a/b'"),
    ],
)
def test_units_and_names_have_to_fit(neupol: Run, tmp_path: Path, options, words) -> None:
    (tmp_path / "a.xyz").write_text("1\nenergy=1 a/b=2\nO 0 0 0\n")
    done = neupol("data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5", *options)
    assert done.returncode == 65, done.stderr
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "a.h5").exists()


def test_a_row_without_a_good_label_can_be_skipped(neupol: Run, tmp_path: Path) -> None:
    comments = ("energy=1", "nothing=1", "energy=nan", "energy=4")
    (tmp_path / "a.xyz").write_text("".join(f"1\n{each}\nO 0 0 0\n" for each in comments))
    call = ("data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5")
    done = neupol(*call)
    assert done.returncode == 65 and "a.xyz#1: has no label 'energy'" in done.stderr
    done = neupol(*call, "--on-error", "skip")
    assert done.returncode == 0 and done.stderr.count("(skipped)") == 2
    assert hdf5.read(tmp_path / "a.h5").targets["energy"].values.tolist() == [1, 4]


def frames_with(*comments: str, columns: str = "", row: str = "") -> str:
    head = f"Properties=species:S:1:pos:R:3{columns} " if columns else ""
    return "".join(f"1\n{head}{comment}\nO 0 0 0{row}\n" for comment in comments)


def test_labels_are_those_of_all_structures(tmp_path: Path) -> None:
    """Not of the first one, which may lack the forces of the others."""
    forces = frames_with("energy=2", "energy=3", columns=":forces:R:3", row=" 1 2 3")
    (tmp_path / "a.xyz").write_text(frames_with("energy=1") + forces)
    with pytest.raises(InputError) as caught:
        xyz.read([tmp_path / "a.xyz"], {})
    assert "a.xyz#0: has no label 'forces'; it has energy (2 of 3" in str(caught.value)
    assert "--missing skip" in str(caught.value)
    found = xyz.read([tmp_path / "a.xyz"], {}, missing="skip")
    assert found.targets["energy"].values.tolist() == [2, 3]
    assert found.targets["forces"].values.tolist() == [[1, 2, 3]] * 2


def test_labels_of_other_names_are_suggested(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.xyz").write_text(frames_with("energy=1", columns=":force:R:3", row=" 1 2 3"))
    assert list(xyz.read([tmp_path / "a.xyz"], {}).targets) == ["energy"]
    assert "no label 'forces' is there; did you mean --forces-key force?" in capsys.readouterr().err
    (tmp_path / "a.xyz").write_text(frames_with("REF_energy=1 other=2"))
    with pytest.raises(InputError, match=r"did you mean --energy-key REF_energy\?"):
        xyz.read([tmp_path / "a.xyz"], {})
    with pytest.raises(InputError, match=r"no label 'ref_energy'.*did you mean REF_energy\?"):
        xyz.read([tmp_path / "a.xyz"], {"energy": ("ref_energy", "eV")})


def test_a_stress_of_six_numbers_leaves_the_other_labels(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frames_with('energy=-2 stress="1 2 3 4 5 6"'))
    found = xyz.read([tmp_path / "a.xyz"], {"stress": ("stress", "eV")}).targets
    assert found["energy"].values.tolist() == [-2]
    assert found["stress"].values.tolist() == [[[1, 6, 5], [6, 2, 4], [5, 4, 3]]]


def test_info_as_a_table_and_of_damaged_files(neupol: Run, tmp_path: Path) -> None:
    original_files(tmp_path / "files")
    path = tmp_path / "a.h5"
    neupol("data", "qm9", "-o", path, "--source", tmp_path / "files")
    done = neupol("data", "info", path)
    assert done.returncode == 0
    for word in ("structures", "11", "QM9", "Cv", "cal/mol/K"):
        assert word in done.stdout
    with h5py.File(path) as file:
        begin = file["positions"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[begin] ^= 1
    path.write_bytes(content)
    done = neupol("data", "info", path)
    assert done.returncode == 65 and len(done.stderr.splitlines()) == 1
    assert neupol("data", "info", tmp_path / "no.h5").returncode == 65


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("qm9", "-o", "no/folder/a.h5"), 2, "does not exist; make it first"),
        (("qm9", "-o", "a.h5", "--partition", "1,2,x"), 2, "TRAIN,VALID"),
        (("qm9", "-o", "a.h5", "--source", "nowhere"), 65, "uncharacterized.txt"),
        (("qm9",), 2, "output"),
        (("md17", "no.npz", "-o", "a.h5"), 65, "no such file"),
        (("xyz", "no.xyz", "-o", "a.h5"), 65, "no such file"),
        (("info", "/dev/null"), 65, "no such file"),
        (("nbody", "-o", "a.h5", "--seed", "-1"), 2, "--seed"),
        (("qm9", "-o", "a.h5", "--seed", "-1"), 2, "--seed"),
    ],
)
def test_wrong_command_lines(
    neupol: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = neupol("data", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_second_writer_is_sent_away_at_once(neupol: Run, tmp_path: Path) -> None:
    words = ("data", "xyz", "-", "-o", tmp_path / "a.h5")
    first = Process("-m", "neupol_cli", *words, streams=FED)  # waits for its input
    try:
        lock = tmp_path / "a.h5.lock"
        wait_for(lambda: lock.exists() and lock.read_text(), first)
        done = neupol(*words)
        assert done.returncode == 75
        assert f"process {first.pid}" in done.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert os.listdir(tmp_path) == ["a.h5.lock"]
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    text = (tmp_path / "a.xyz").read_text()
    done = neupol(*words, input=text)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.xyz"]


def test_terminated_writer_cleans_up(tmp_path: Path) -> None:
    words = ("data", "xyz", "-", "-o", tmp_path / "a.h5")
    process = Process("-m", "neupol_cli", *words, streams=FED)
    wait_for((tmp_path / "a.h5.lock").exists, process)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_ends_with_74_and_the_old_file(neupol: Run, tmp_path: Path) -> None:
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    (tmp_path / "a.h5").write_text("old")
    words = ("data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5")
    done = neupol(*words, limits={"FSIZE": 5000})
    assert done.returncode == 74, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "a.h5").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.xyz"]


def test_splits_are_seeded_and_disjoint() -> None:
    first, again = (splits.shuffled(100, (70, 20), 5) for _ in range(2))
    for part, values in first.items():
        np.testing.assert_array_equal(values, again[part])
    assert sorted(np.concatenate(list(first.values()))) == list(range(100))
    assert [len(first[part]) for part in ("train", "valid", "test")] == [70, 20, 10]
    assert (splits.shuffled(100, (70, 20), 6)["train"] != first["train"]).any()
    with pytest.raises(UsageError, match="cannot split 100 structures as 90,20"):
        splits.shuffled(100, (90, 20), 0)
    for own, size, expected in [
        (20, 20, [16, 2, 2]), (5000, 5000, [4000, 500, 500]), (1000, 2000, [950, 50, 1000]),
        (5, 5, [3, 1, 1]), (2, 2, [1, 1, 0]), (1, 1, [1, 0, 0]), (1, 2, [1, 0, 1]),
    ]:  # fmt: skip
        made = splits.with_test(own, size, None, 0)
        assert [len(made[part]) for part in ("train", "valid", "test")] == expected
